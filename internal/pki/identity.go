// Package pki is who our roles are to each other: certificates that name a role
// by a SPIFFE id, mutual TLS 1.3 that accepts only the roles it expects, and the
// certificate authority that a development cluster makes on first start.
package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"slices"
	"strings"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Role is what a process does.
type Role string

// The roles.
const (
	RoleControl       Role = "control"
	RoleGateway       Role = "gateway"
	RoleChannelServer Role = "channelserver"
	RoleEdge          Role = "edge"
	RoleCell          Role = "cell"
	RoleEtcd          Role = "etcd"
)

func roles() []Role {
	return []Role{RoleControl, RoleGateway, RoleChannelServer, RoleEdge, RoleCell, RoleEtcd}
}

const trustDomain = "parley"

// Identity is who a certificate says its holder is. Region and Cell are empty
// for a role that belongs to none.
type Identity struct {
	Region topology.RegionID
	Cell   topology.CellID
	Role   Role
	Name   string
}

// URI is the SPIFFE id: spiffe://parley/region/R/cell/C/role/ROLE/NAME, with "-"
// for no region or cell.
func (id Identity) URI() string {
	return "spiffe://" + trustDomain + "/region/" + orDash(string(id.Region)) + "/cell/" + orDash(string(id.Cell)) +
		"/role/" + string(id.Role) + "/" + id.Name
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func fromDash(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

// ParseURI reads a SPIFFE id of ours.
func ParseURI(s string) (Identity, error) {
	bad := func(why string) (Identity, error) {
		return Identity{}, problem.New(problem.Unauthentic, "the identity %q %s", s, why)
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "spiffe" || u.Host != trustDomain {
		return bad("is not of this installation")
	}
	p := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	if len(p) != 7 || p[0] != "region" || p[2] != "cell" || p[4] != "role" || slices.Contains(p, "") {
		return bad("must be /region/R/cell/C/role/ROLE/NAME")
	}
	id := Identity{
		Region: topology.RegionID(fromDash(p[1])), Cell: topology.CellID(fromDash(p[3])),
		Role: Role(p[5]), Name: p[6],
	}
	if !slices.Contains(roles(), id.Role) {
		return bad("names no role that is known")
	}
	return id, nil
}

// PeerIdentity is who the peer of a connection has proven to be.
func PeerIdentity(cs tls.ConnectionState) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, problem.New(problem.Unauthentic, "the peer showed no certificate")
	}
	return identityOf(cs.PeerCertificates[0])
}

func identityOf(c *x509.Certificate) (Identity, error) {
	if len(c.URIs) != 1 {
		return Identity{}, problem.New(problem.Unauthentic, "the certificate must name exactly one identity, not %d", len(c.URIs))
	}
	return ParseURI(c.URIs[0].String())
}
