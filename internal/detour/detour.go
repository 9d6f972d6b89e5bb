// Package detour leads connections to other addresses than those that servers
// go by, where a bastion, a NAT or a drill stands before them.
package detour

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"parley/internal/problem"
)

// Map says, for addresses that a config or a server names, where to connect
// instead. Both sides are host:port. An address is looked up as it is named, before
// its host is resolved, and once: what it leads to is not looked up again.
type Map map[string]string

// Validate lists every side that is no address, or that is written in a way in
// which no address is named.
func (m Map) Validate() error {
	var faults []error
	for _, named := range slices.Sorted(maps.Keys(m)) {
		for _, addr := range [...]string{named, m[named]} {
			if canonical, ok := canonical(addr); !ok {
				faults = append(faults, problem.Field("via", "%q is not host:port, with a port from 1 to 65535", addr))
			} else if canonical != addr {
				faults = append(faults, problem.Field("via", "%q must be written %q", addr, canonical))
			}
		}
	}
	return errors.Join(faults...)
}

func canonical(addr string) (_ string, ok bool) {
	host, port, err := net.SplitHostPort(addr)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || host == "" || n == 0 {
		return "", false
	}
	host = strings.ToLower(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), true
}

// Leads reports whether any address with this host leads elsewhere: then it must
// be dialled by that name.
func (m Map) Leads(host string) bool {
	for named := range m {
		if h, _, err := net.SplitHostPort(named); err == nil && h == host {
			return true
		}
	}
	return false
}

// Dialer dials as net.Dialer does, to where its Map leads.
type Dialer struct {
	Via Map
	Net net.Dialer
	// TLS, if set, is spoken with what is reached, as with the server of the name that
	// was dialled. Net.Timeout then bounds the handshake, too.
	TLS *tls.Config
}

// DialContext is what drivers ask of a dialer.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.Net.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Net.Timeout)
		defer cancel()
	}
	raw, err := d.Net.DialContext(ctx, network, cmp.Or(d.Via[addr], addr))
	if err != nil {
		return nil, err
	}
	if d.Via[addr] != "" {
		raw = detoured(raw, addr)
	}
	if d.TLS == nil {
		return raw, nil
	}
	conf := d.TLS
	if conf.ServerName == "" {
		conf = conf.Clone()
		conf.ServerName, _, _ = net.SplitHostPort(addr) // it was dialled, so it has a host
	}
	c := tls.Client(raw, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return c, nil
}

// conn is a connection whose other end goes by the address that was dialled: drivers
// learn from it where a node is. What else a TCP connection can do is kept.
type conn struct {
	*net.TCPConn
	named net.Addr
}

// RemoteAddr is the named address.
func (c conn) RemoteAddr() net.Addr { return c.named }

func detoured(raw net.Conn, named string) net.Conn {
	tcp, ok := raw.(*net.TCPConn)
	addr, err := netip.ParseAddrPort(named)
	if !ok || err != nil { // a name is no address to tell
		return raw
	}
	return conn{tcp, net.TCPAddrFromAddrPort(addr)}
}
