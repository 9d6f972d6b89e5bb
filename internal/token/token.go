// Package token signs and verifies the tokens that people and tools show at an
// edge: JWTs signed with Ed25519. A token names the workspace, never the cell.
package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oklog/ulid/v2"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Issuer is in every token of ours.
const Issuer = "parley"

// Roles in a token.
const (
	RoleMember = "member"
	RoleAdmin  = "admin"
)

// BytesMax bounds a token: ours have about 400 bytes.
const BytesMax = 4096

// skew is how far the clocks of signer and verifier may differ.
const skew = time.Minute

// Claims is what a token says.
type Claims struct {
	User      topology.UserID // "" only with RoleAdmin: a tool, not a person
	Workspace topology.WorkspaceID
	Role      string
	Expires   time.Time
	ID        string // jti; Sign gives one if it is empty
}

// Key is a signing key. Copies for verifiers have no Private.
type Key struct {
	KID                 string
	Private             ed25519.PrivateKey
	Public              ed25519.PublicKey
	NotBefore, NotAfter time.Time // when it signs; tokens outlive it by their own life
}

// NewKey makes a key pair for a time.
func NewKey(notBefore, notAfter time.Time) (Key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, err
	}
	return Key{KID: ulid.Make().String(), Private: private, Public: public, NotBefore: notBefore, NotAfter: notAfter}, nil
}

// WithoutPrivate is the copy for verifiers.
func (k Key) WithoutPrivate() Key {
	k.Private = nil
	return k
}

type wireClaims struct {
	jwt.RegisteredClaims
	Workspace topology.WorkspaceID `json:"ws"`
	Role      string               `json:"role"`
}

// Sign makes a token.
func Sign(k Key, c Claims, now time.Time) (string, error) {
	if err := check(c); err != nil {
		return "", err
	}
	if c.ID == "" {
		c.ID = ulid.Make().String()
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, wireClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: Issuer, Subject: string(c.User), ID: c.ID,
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(c.Expires),
		},
		Workspace: c.Workspace, Role: c.Role,
	})
	t.Header["kid"] = k.KID
	s, err := t.SignedString(k.Private)
	if err != nil {
		return "", problem.Wrap(err, problem.Internal, "the token could not be signed")
	}
	return s, nil
}

func check(c Claims) error {
	switch {
	case c.Workspace == "":
		return problem.Field("ws", "a token must name a workspace")
	case c.Role != RoleMember && c.Role != RoleAdmin:
		return problem.Field("role", "must be %s or %s", RoleMember, RoleAdmin)
	case c.User == "" && c.Role != RoleAdmin:
		return problem.Field("sub", "a member's token must name its user")
	}
	return nil
}

// Verifier checks tokens against the keys it was last given. The zero value knows
// no key. It may be used from any goroutine.
type Verifier struct {
	keys atomic.Pointer[map[string]Key]
}

// SetKeys replaces the keys.
func (v *Verifier) SetKeys(keys []Key) {
	m := make(map[string]Key, len(keys))
	for _, k := range keys {
		m[k.KID] = k.WithoutPrivate()
	}
	v.keys.Store(&m)
}

// Verify returns what a token says, or an Unauthentic error that says what is
// wrong with it.
func (v *Verifier) Verify(s string, now time.Time) (Claims, error) {
	if s == "" {
		return Claims{}, problem.New(problem.Unauthentic, "a token is needed: Authorization: Bearer …, or ?token= for /connect")
	}
	if len(s) > BytesMax {
		return Claims{}, problem.New(problem.Unauthentic, "the token is longer than %d bytes", BytesMax)
	}
	if m := v.keys.Load(); m == nil || len(*m) == 0 {
		return Claims{}, &problem.Error{Kind: problem.Unavailable, Msg: "no signing keys are known here yet; try again", RetryAfter: time.Second}
	}
	var w wireClaims
	_, err := jwt.ParseWithClaims(s, &w, v.key,
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithIssuer(Issuer), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithLeeway(skew), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return Claims{}, problem.Wrap(err, problem.Unauthentic, "%s", reason(err))
	}
	c := Claims{User: topology.UserID(w.Subject), Workspace: w.Workspace, Role: w.Role, Expires: w.ExpiresAt.Time, ID: w.ID}
	if err := check(c); err != nil {
		return Claims{}, problem.Wrap(err, problem.Unauthentic, "the token lacks a claim: %s", problem.Show(err))
	}
	return c, nil
}

var errNoKey = errors.New("no such key")

func (v *Verifier) key(t *jwt.Token) (any, error) {
	kid, _ := t.Header["kid"].(string) // "" is no key's id
	if m := v.keys.Load(); m != nil {
		if k, ok := (*m)[kid]; ok {
			return k.Public, nil
		}
	}
	return nil, errNoKey
}

func reason(err error) string {
	switch {
	case errors.Is(err, errNoKey):
		return "the token was signed with a key that is not known here"
	case errors.Is(err, jwt.ErrTokenExpired):
		return "the token has expired; get a new one"
	case errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return "the token is from the future"
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return "the token is not from Parley"
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return "the token's signature is wrong"
	default:
		return "the token is malformed"
	}
}
