package cassandra_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"parley/cell/cassandra"
)

// server answers each connection with serve until the test ends.
func server(t *testing.T, serve func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// Opcodes of the native protocol, version 4.
const (
	opError, opAuthenticate, opOptions, opSupported, opAuthResponse = 0x00, 0x03, 0x05, 0x06, 0x0F
)

// login is a node that asks for a password and takes none.
func login(c net.Conn) {
	head := make([]byte, 9)
	for {
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[5:]))); err != nil {
			return
		}
		var body []byte
		op := byte(opAuthenticate)
		switch head[4] {
		case opOptions:
			op, body = opSupported, []byte{0, 0}
		case opAuthResponse:
			op, body = opError, text(binary.BigEndian.AppendUint32(nil, 0x0100), "Provided username u and/or password are incorrect")
		default:
			body = text(nil, "org.apache.cassandra.auth.PasswordAuthenticator")
		}
		frame := append([]byte{0x84, 0, head[2], head[3], op}, binary.BigEndian.AppendUint32(nil, uint32(len(body)))...)
		if _, err := c.Write(append(frame, body...)); err != nil {
			return
		}
	}
}

func text(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func TestCheck_SaysWhatAnswers(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := closed.Addr().String()
	_ = closed.Close()

	for name, c := range map[string]struct {
		host string
		edit func(*cassandra.Config)
		want string
	}{
		"nothing there":   {host: gone, want: "nothing answers at " + gone},
		"another service": {host: server(t, httpAnswer), want: "is not Cassandra's native protocol"},
		"hangs up":        {host: server(t, func(c net.Conn) { _ = c.Close() }), want: "hangs up on the native protocol"},
		"says nothing":    {host: server(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), want: "does not answer"},
		"no login":        {host: server(t, login), want: "set username and password_file"},
		"wrong password": {
			host: server(t, login), want: "does not take the username",
			edit: func(cfg *cassandra.Config) { cfg.Username, cfg.PasswordFile = "u", password },
		},
		"no password file": {
			host: gone, want: "password_file: nowhere can't be read",
			edit: func(cfg *cassandra.Config) { cfg.Username, cfg.PasswordFile = "u", "nowhere" },
		},
		"no ca file": {host: gone, want: "ca_file: nowhere can't be read", edit: func(cfg *cassandra.Config) { cfg.CAFile = "nowhere" }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good()
			cfg.Hosts = []string{c.host}
			if c.edit != nil {
				c.edit(&cfg)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := cassandra.Check(ctx, cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Check: %v; want %q in it", err, c.want)
			}
			if db, err := cassandra.Open(ctx, cfg, "eu-1", nil, nil); err == nil || db != nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Open: %v, %v", db, err)
			}
			if bytes.Contains([]byte(err.Error()), []byte("wrong")) {
				t.Fatalf("the error tells the password: %v", err)
			}
		})
	}
}

func httpAnswer(c net.Conn) {
	_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
	_, _ = io.Copy(io.Discard, c)
}
