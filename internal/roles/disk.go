package roles

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"parley/internal/link"
	"parley/internal/problem"
)

// lock takes a role's directory for this process and this role alone: two of one
// kind on a directory would undo each other's work, and a directory of another
// node holds another node's past.
func lock(dir, who string) (unlock func(), err error) {
	file := filepath.Join(dir, "owner")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, problem.Wrap(err, problem.Internal, "dir: %s can't be written", file)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, problem.Wrap(err, problem.Conflict, "dir: another process runs on %s", dir)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, problem.Wrap(err, problem.Internal, "dir: %s can't be read", file)
	}
	switch was := strings.TrimSpace(string(b)); was {
	case who:
	case "":
		if _, err := f.WriteString(who + "\n"); err != nil {
			return nil, problem.Wrap(err, problem.Internal, "dir: %s can't be written", file)
		}
	default:
		return nil, problem.Field("dir", "%s belongs to %s, and this is %s", dir, was, who)
	}
	return func() { _ = f.Close() }, nil // which lets go of the lock
}

// resetKey is the node's key for stateless resets: made once, kept in a file.
func resetKey(dir string) (*link.ResetKey, error) {
	file := filepath.Join(dir, "reset-key")
	k := new(link.ResetKey)
	b, err := os.ReadFile(file)
	switch {
	case err == nil && len(b) == len(k):
		copy(k[:], b)
		return k, nil
	case err == nil:
		return nil, problem.New(problem.Internal, "%s has %d bytes in place of %d: remove it", file, len(b), len(k))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, problem.Wrap(err, problem.Internal, "%s can't be read", file)
	}
	_, _ = rand.Read(k[:]) // never fails
	if err := os.WriteFile(file, k[:], 0o600); err != nil {
		return nil, problem.Wrap(err, problem.Internal, "%s can't be written", file)
	}
	return k, nil
}
