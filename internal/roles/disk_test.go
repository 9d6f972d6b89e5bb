package roles_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"parley/internal/problem"
	"parley/internal/roles"
)

// edgeIn is an edge with all it needs but certificates: it takes its directory and
// then fails for another reason.
func edgeIn(dir string) roles.Edge {
	c := roles.DefaultEdge()
	c.ID, c.Region, c.Listen, c.URL, c.Etcd = "eu-edge-1", "eu", "127.0.0.1:0", "http://localhost", []string{"127.0.0.1:1"}
	c.Dir, c.CertDir = dir, filepath.Join(dir, "no-certs")
	return c
}

// TestDirectory_OfAnotherNodeIsRefused: the first role that starts in a directory
// owns it, also when that start failed. Another one's past would be taken for its own.
func TestDirectory_OfAnotherNodeIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	none := func() {}
	run := func(c roles.Edge) error { return roles.RunEdge(t.Context(), none, c, slog.New(slog.DiscardHandler)) }
	owned := func(err error) bool { return strings.Contains(problem.Show(err), "belongs to edge eu-edge-1") }

	if err := run(edgeIn(dir)); err == nil || owned(err) {
		t.Fatalf("an edge without certificates in an empty directory: %v", err)
	}
	other := edgeIn(dir)
	other.ID = "eu-edge-2"
	if err := run(other); !problem.Is(err, problem.Invalid) || !owned(err) || !strings.Contains(problem.Show(err), "this is edge eu-edge-2") {
		t.Errorf("another edge: %v", err)
	}
	control := roles.DefaultControl()
	control.ID, control.RaftAddr, control.APIAddr, control.Dir, control.CertDir = "eu-edge-1", "127.0.0.1:1", "127.0.0.1:2", dir, other.CertDir
	control.Peers = []roles.Peer{{ID: "eu-edge-1", RaftAddr: "127.0.0.1:1", APIURL: "https://127.0.0.1:2"}}
	if err := roles.RunControl(t.Context(), none, control, slog.New(slog.DiscardHandler)); !problem.Is(err, problem.Invalid) || !owned(err) {
		t.Errorf("a control node of the same name: %v", err)
	}
	if err := run(edgeIn(dir)); err == nil || owned(err) {
		t.Errorf("the edge itself, once more: %v", err)
	}
}

func TestDirectory_InUseIsRefused(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "owner"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	err = roles.RunEdge(t.Context(), func() {}, edgeIn(dir), slog.New(slog.DiscardHandler))
	if !problem.Is(err, problem.Conflict) || !strings.Contains(problem.Show(err), "another process runs on "+dir) {
		t.Errorf("got %v", err)
	}
}
