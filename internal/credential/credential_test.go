package credential_test

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"parley/internal/credential"
	"parley/internal/credential/credentialtest"
	"parley/internal/problem"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// wantFault wants an error of the field that names the file and tells no secret.
func wantFault(t *testing.T, err error, field, file string) {
	t.Helper()
	if !problem.Is(err, problem.Invalid) || !strings.Contains(err.Error(), field+": ") || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "sesame") {
		t.Errorf("got %v; want a fault of %s that names %s", err, field, file)
	}
}

func TestSecret(t *testing.T) {
	for text, want := range map[string]string{"sesame\n": "sesame", "sesame": "sesame", " se same \r\n": " se same "} {
		if got, err := credential.Secret("password_file", write(t, text)); got != want || err != nil {
			t.Errorf("%q is read as %q, %v", text, got, err)
		}
	}
	if got, err := credential.Secret("password_file", ""); got != "" || err != nil {
		t.Errorf("no file is read as %q, %v", got, err)
	}
	for name, file := range map[string]string{
		"missing": "/nowhere", "a directory": t.TempDir(), "empty": write(t, "\n"),
		"two lines": write(t, "open\nsesame\n"), "another file": write(t, strings.Repeat("sesame", 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := credential.Secret("password_file", file)
			wantFault(t, err, "password_file", file)
		})
	}
}

func TestTLS_Faults(t *testing.T) {
	ca, other := credentialtest.New(t), credentialtest.New(t)
	empty := write(t, "")
	mine, theirs := ca.Files("parley"), other.Files("parley")
	_, err := credential.Files{CA: empty, Cert: empty, Key: empty}.TLS()
	wantFault(t, err, "ca_file", empty)
	wantFault(t, err, "cert_file", empty)
	_, err = credential.Files{CA: "/nowhere", Cert: mine.Cert, Key: "/nowhere"}.TLS()
	wantFault(t, err, "ca_file", "/nowhere")
	wantFault(t, err, "key_file", "/nowhere")
	_, err = credential.Files{Cert: mine.Cert, Key: theirs.Key}.TLS()
	wantFault(t, err, "cert_file", theirs.Key)
}

// handshake is what a client's side of one comes to, at a server that asks for
// certificates of the same authority.
func handshake(t *testing.T, server *tls.Config, files credential.Files, name string) error {
	t.Helper()
	conf, err := files.TLS()
	if err != nil {
		t.Fatal(err)
	}
	conf.ServerName = name
	a, b := net.Pipe()
	served := make(chan error, 1)
	go func() {
		s := tls.Server(a, server)
		err := s.HandshakeContext(context.WithoutCancel(t.Context()))
		if err == nil {
			_, err = s.Write([]byte("k"))
		}
		served <- err
		_ = a.Close() // ends the client's side, too
	}()
	c := tls.Client(b, conf)
	_, err = c.Read(make([]byte, 1)) // the client's certificate is judged after its handshake
	_ = b.Close()
	if served := <-served; err == nil {
		err = served
	}
	return err
}

func TestTLS_TrustsWhomItShould(t *testing.T) {
	ca, other := credentialtest.New(t), credentialtest.New(t)
	server := ca.Server("engine.test")
	if err := handshake(t, server, ca.Files("parley"), "engine.test"); err != nil {
		t.Errorf("what is right: %v", err)
	}
	for name, c := range map[string]struct {
		files credential.Files
		host  string
	}{
		"another authority": {other.Files("parley"), "engine.test"},
		"another name":      {ca.Files("parley"), "other.test"},
		"no certificate":    {credential.Files{CA: ca.File()}, "engine.test"},
		"the system's":      {credential.Files{}, "engine.test"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := handshake(t, server, c.files, c.host); err == nil {
				t.Error("it is taken")
			}
		})
	}
}
