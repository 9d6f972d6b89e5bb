package token_test

import (
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"parley/internal/problem"
	"parley/internal/token"
)

func newKey(t *testing.T, now time.Time) token.Key {
	t.Helper()
	k, err := token.NewKey(now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestVerify(t *testing.T) {
	now := time.Unix(1_700_000_000, 0).UTC()
	known, other := newKey(t, now), newKey(t, now)
	var v token.Verifier
	v.SetKeys([]token.Key{known})
	good := token.Claims{User: "U1", Workspace: "W1", Role: token.RoleMember, Expires: now.Add(time.Hour).Local(), ID: "t1"}
	signed := func(k token.Key, c token.Claims, at time.Time) string {
		s, err := token.Sign(k, c, at)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	expired := good
	expired.Expires = now.Add(-2 * time.Minute)
	ok := signed(known, good, now)
	hmac, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": "parley", "ws": "W1", "sub": "U1", "role": "admin", "exp": now.Add(time.Hour).Unix()}).SignedString([]byte(known.Public))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ tok, want string }{
		"good":             {ok, ""},
		"none":             {"", "a token is needed"},
		"another key":      {signed(other, good, now), "not known here"},
		"expired":          {signed(known, expired, now.Add(-time.Hour)), "has expired"},
		"from the future":  {signed(known, good, now.Add(10*time.Minute)), "from the future"},
		"tampered":         {ok[:len(ok)-6] + "AAAAAA", "signature is wrong"},
		"another method":   {hmac, "signature is wrong"},
		"not a token":      {"hello", "malformed"},
		"far too long":     {strings.Repeat("a", token.BytesMax+1), "longer than"},
		"payload replaced": {strings.Join([]string{strings.Split(ok, ".")[0], "eyJ3cyI6IlcyIn0", strings.Split(ok, ".")[2]}, "."), "signature is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := v.Verify(c.tok, now)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				got.Expires = got.Expires.Local()
				if d := cmp.Diff(good, got); d != "" {
					t.Error(d)
				}
				return
			}
			if !problem.Is(err, problem.Unauthentic) || !strings.Contains(problem.Show(err), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestSign_RefusesTokensThatWouldNotBeTaken(t *testing.T) {
	now := time.Now()
	k := newKey(t, now)
	for name, c := range map[string]token.Claims{
		"no workspace":          {User: "U1", Role: token.RoleMember},
		"no role":               {User: "U1", Workspace: "W1"},
		"a member without user": {Workspace: "W1", Role: token.RoleMember},
	} {
		if _, err := token.Sign(k, c, now); !problem.Is(err, problem.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	k, err := token.NewKey(now, now.Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	s, err := token.Sign(k, token.Claims{User: "U1", Workspace: "W1", Role: token.RoleMember, Expires: now.Add(time.Hour)}, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s)
	f.Add("a.b.c")
	f.Add("..")
	var v token.Verifier
	v.SetKeys([]token.Key{k})
	f.Fuzz(func(t *testing.T, tok string) {
		if c, err := v.Verify(tok, now); err == nil && (c.Workspace != "W1" || c.User != "U1") {
			t.Errorf("%q was taken for %+v", tok, c)
		}
	})
}
