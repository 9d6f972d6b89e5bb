package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"parley/internal/problem"
)

// ports gives every part of the cluster an address that it keeps.
type ports struct {
	ctx    context.Context //nolint:containedctx // of the one plan that is made with it
	data   string
	base   int
	next   int            // 0 = any free one
	taken  map[string]int // by the part's name
	listen []listener
	err    error
}

// What the control plane has in its log stays where it is: each node's address for
// its peers, and each region's etcd.
const (
	raftPart = "/raft"
	etcdPart = "/etcd"
)

// listener is an address that the cluster will listen at.
type listener struct{ name, network, addr string }

const (
	portsFile = "ports.json"
	baseKey   = "port-base" // in the file, beside the parts' names
	portMax   = 65535
)

// openPorts reads which ports the parts had. Those remembered make way for a
// --port-base that is another than they came from.
func openPorts(ctx context.Context, c Config, log *slog.Logger) (*ports, error) {
	p := &ports{ctx: ctx, data: c.Data, base: c.PortBase, next: c.PortBase, taken: map[string]int{}}
	b, err := os.ReadFile(p.file())
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p.taken)
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "%s can't be read; is --data a directory of another program?", p.file())
	}
	was, known := p.taken[baseKey]
	delete(p.taken, baseKey)
	switch {
	case c.PortBaseGiven && (!known || was != c.PortBase):
		log.Warn("the cluster moves to the ports of --port-base; those that it had are given up, save those of Raft and etcd", "port_base", c.PortBase, "file", p.file())
		p.move()
	case known:
		p.base, p.next = was, was
	}
	return p, nil
}

// move forgets all ports that can be.
func (p *ports) move() {
	for name := range p.taken {
		if !p.bound(name) {
			delete(p.taken, name)
		}
	}
}

// bound reports whether a port is in the control plane's log already.
func (p *ports) bound(name string) bool {
	if !strings.HasSuffix(name, raftPart) && !strings.HasSuffix(name, etcdPart) {
		return false
	}
	_, err := os.Stat(filepath.Join(p.data, "control-1"))
	return err == nil
}

func (p *ports) file() string { return filepath.Join(p.data, portsFile) }

func (p *ports) tcp(name string) string { return p.addr(name, "tcp", freeTCP) }
func (p *ports) udp(name string) string { return p.addr(name, "udp", freeUDP) }

const loopback = "127.0.0.1"

func (p *ports) addr(name, network string, free func(context.Context) (int, error)) string {
	port, ok := p.taken[name]
	for !ok && p.err == nil {
		switch {
		case p.next > portMax:
			p.err = problem.Field("port-base", "%d leaves too few ports up to %d for this cluster: give a lower number", p.base, portMax)
		case p.next > 0:
			port, p.next = p.next, p.next+1
		default:
			port, p.err = free(p.ctx)
		}
		ok = !p.has(port)
	}
	if p.err != nil {
		return ""
	}
	p.taken[name] = port
	addr := net.JoinHostPort(loopback, strconv.Itoa(port))
	p.listen = append(p.listen, listener{name, network, addr})
	return addr
}

func (p *ports) has(port int) bool {
	for _, t := range p.taken {
		if t == port {
			return true
		}
	}
	return false
}

// save remembers the ports once nobody else has one of them: what is remembered
// and in use would be in use at the next start, too.
func (p *ports) save() error {
	if problem.Is(p.err, problem.Invalid) {
		return p.err
	}
	if p.err != nil {
		return problem.Wrap(p.err, problem.Unavailable, "no free port was found")
	}
	if err := p.allFree(); err != nil {
		return err
	}
	p.taken[baseKey] = p.base
	b, err := json.MarshalIndent(p.taken, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(p.file(), b, 0o644)
}

// inUseMax is how many of the ports in use are told.
const inUseMax = 5

// allFree checks that nobody else listens where the cluster will.
func (p *ports) allFree() error {
	var used []string
	hint := "Give --port-base another number"
	for _, l := range p.listen {
		if free(p.ctx, l) == nil {
			continue
		}
		if p.bound(l.name) {
			hint = "The ports of Raft and etcd can't move: end the program that has them, or give another --data"
		}
		if used = append(used, fmt.Sprintf("%s (%s, %s)", l.addr, l.network, l.name)); len(used) == inUseMax {
			break
		}
	}
	if len(used) == 0 {
		return nil
	}
	return problem.New(problem.Conflict, "in use: %s. Is another `parley dev` running? %s", strings.Join(used, ", "), hint)
}

func free(ctx context.Context, l listener) error {
	if l.network == "udp" {
		c, err := new(net.ListenConfig).ListenPacket(ctx, l.network, l.addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
	s, err := new(net.ListenConfig).Listen(ctx, l.network, l.addr)
	if err != nil {
		return err
	}
	return s.Close()
}

func freeTCP(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return 0, err
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil || !ok {
		return 0, errors.Join(err, errors.New("no TCP address"))
	}
	return addr.Port, nil
}

func freeUDP(ctx context.Context) (int, error) {
	c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return 0, err
	}
	addr, ok := c.LocalAddr().(*net.UDPAddr)
	if err := c.Close(); err != nil || !ok {
		return 0, errors.Join(err, errors.New("no UDP address"))
	}
	return addr.Port, nil
}
