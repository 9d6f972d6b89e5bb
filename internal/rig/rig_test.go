package rig_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"parley/internal/pki"
	"parley/internal/rig"
)

func TestPorts_NoneTwice(t *testing.T) {
	p := rig.NewPorts(t.Context())
	var tcp, udp []string
	for range 200 {
		tcp, udp = append(tcp, p.TCP()), append(udp, p.UDP())
	}
	p.LetGo()
	if p.Err != nil {
		t.Fatal(p.Err)
	}
	for _, all := range [][]string{tcp, udp} {
		slices.Sort(all)
		if n := len(slices.Compact(all)); n != 200 {
			t.Errorf("%d ports of 200 are different", n)
		}
	}
}

func TestPlace_SecretsAreTheOwners(t *testing.T) {
	p, err := rig.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	token, err := p.Secret("token", "pot_1")
	if err != nil {
		t.Fatal(err)
	}
	config, err := p.Write("edge-1", map[string]string{"id": "edge-1"})
	if err != nil {
		t.Fatal(err)
	}
	certs, err := p.Certs(pki.Identity{Region: "eu", Role: pki.RoleEdge, Name: "edge-1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{token, config, filepath.Join(certs, "key.pem")} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	if b, err := os.ReadFile(config); err != nil || string(b) != "id: edge-1\n" {
		t.Errorf("the config is %q, %v", b, err)
	}
}
