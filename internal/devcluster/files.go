package devcluster

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"parley/internal/problem"
)

// lock keeps two clusters off one directory.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "--data: %s can't be written", file)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(problem.Wrap(err, problem.Conflict, "--data: another `parley dev` runs on this directory"), f.Close())
	}
	return func() { _ = f.Close() }, nil // which lets go of the lock
}

// operatorToken is the first operator's secret: made once, kept in a file.
func operatorToken(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", problem.Wrap(err, problem.Internal, "%s can't be read", file)
	}
	secret := "pot_" + rand.Text()
	return secret, writeFile(file, []byte(secret+"\n"), 0o600)
}
