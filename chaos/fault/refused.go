package fault

import (
	"errors"
	"syscall"
)

// isRefused reports whether the kernel passed an ICMP "port unreachable" on.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
