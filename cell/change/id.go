package change

import (
	"parley/internal/problem"
	"parley/internal/topology"
)

// A message id is a ULID: 26 characters of Crockford's base 32 for 128 bits, of
// which 48 are the time in ms, 40 the channel's number, and 40 the message's
// place: a top-level message's seq, or a 1 bit and a reply's rev. As text it
// sorts by time; within a channel it also grows with seq, because the time in it
// never goes back there.
const (
	idLen     = 26
	idDigits  = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	msMax     = 1<<48 - 1
	numberMax = 1<<40 - 1
	placeMax  = 1<<39 - 1
	replyBit  = 1 << 39
)

// ID is what a message id says.
type ID struct {
	MS       int64        // ms since 1970; for order only, not the message's ts
	Number   uint64       // of the channel, unique in its workspace
	Seq      topology.Seq // a top-level message's; 0 in a reply's id
	ReplyRev topology.Rev // a reply's; 0 in a top-level message's id
}

// NewID makes the id of a message: a top-level one if replyRev is 0. What does
// not fit its bits is cut to them: ms at 48 bits (year 10889), number at 40, seq
// and replyRev at 39 (550 billion messages in one channel).
func NewID(ms int64, number uint64, seq topology.Seq, replyRev topology.Rev) topology.MessageID {
	place := uint64(seq) & placeMax
	if replyRev != 0 {
		place = replyBit | uint64(replyRev)&placeMax
	}
	number &= numberMax
	hi := uint64(ms)&msMax<<16 | number>>24 //nolint:gosec // cut to 48 bits, as told above
	lo := number<<40 | place
	var text [idLen]byte
	for i := idLen - 1; i >= 0; i-- { // the last character holds the lowest five bits
		text[i] = idDigits[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return topology.MessageID(text[:])
}

// ParseID reads a message id. It is strict: one message has one id, so lower
// case, the letters I, L, O and U, other lengths, more than 128 bits and the
// place 0 are refused with kind Invalid.
func ParseID(id topology.MessageID) (ID, error) {
	bad := func() (ID, error) {
		return ID{}, problem.Field("message_id", "must be a message id: 26 characters of 0-9 and A-Z without I, L, O, U")
	}
	if len(id) != idLen || id[0] > '7' { // 26 characters have 130 bits
		return bad()
	}
	var hi, lo uint64
	for i := range idLen {
		v := digit(id[i])
		if v < 0 {
			return bad()
		}
		hi = hi<<5 | lo>>59
		lo = lo<<5 | uint64(v)
	}
	p := ID{MS: int64(hi >> 16), Number: hi & 0xffff << 24 & numberMax}
	p.Number |= lo >> 40
	place := lo & placeMax
	if place == 0 {
		return bad()
	}
	if lo&replyBit != 0 {
		p.ReplyRev = topology.Rev(place)
	} else {
		p.Seq = topology.Seq(place)
	}
	return p, nil
}

// digit is the value of a character, -1 if it is none.
func digit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'H':
		return int(c-'A') + 10
	case c == 'J' || c == 'K':
		return int(c-'J') + 18
	case c == 'M' || c == 'N':
		return int(c-'M') + 20
	case c >= 'P' && c <= 'T':
		return int(c-'P') + 22
	case c >= 'V' && c <= 'Z':
		return int(c-'V') + 27
	default:
		return -1
	}
}
