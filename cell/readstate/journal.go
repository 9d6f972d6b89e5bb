package readstate

import "context"

// Entry is one record of a Journal. Of two with one key the later one counts.
type Entry struct{ Key, Value []byte }

// Journal keeps the last entry of every key, so that a store that lost its
// memory can be filled again. The contract is run by journaltest:
//
//  1. Append stores entries durably before it returns nil, in order per key. An
//     error may have an unknown outcome: the same entries may be appended again.
//  2. Replay hands over every key's last entry as of its start, and maybe older ones
//     before it; in order per key, in batches; it returns when it has reached what was
//     the end when it began, or with the first error of fn.
type Journal interface {
	Append(ctx context.Context, es []Entry) error
	Replay(ctx context.Context, fn func(es []Entry) error) error
}
