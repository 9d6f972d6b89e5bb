package kafka

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"parley/cell/eventlog"
	"parley/internal/problem"
)

// batchBytesMax bounds an append on the wire: below what a topic takes by default
// (1 MiB), far above the some 60 KB of a tailer's round.
const batchBytesMax = 1_000_000

// squeezeBytes is from which size on a batch is compressed: its keys are much alike.
const squeezeBytes = 512

// The layout of a record batch, version 2.
const (
	batchLengthAt = 8
	batchCRCAt    = 17
	batchHeader   = 61
	batchMagic    = 2
	noCodec       = 0
)

// batch is the records of one append, encoded once. One append is one batch, for
// brokers take a batch whole or not at all.
type batch struct {
	records []byte
	codec   int16
	count   int
	at      int64 // ms
}

func newBatch(events []eventlog.Event, squeeze kgo.Compressor, now time.Time) (batch, error) {
	b := batch{count: len(events), at: now.UnixMilli()}
	var key, value, record []byte
	for i, e := range events {
		key, value = appendKey(key[:0], e.Channel), appendValue(value[:0], e)
		record = append(record[:0], 0)                 // attributes
		record = binary.AppendVarint(record, 0)        // of the time, to the batch's
		record = binary.AppendVarint(record, int64(i)) // of the offset, to the batch's
		record = appendBytes(appendBytes(record, key), value)
		record = binary.AppendVarint(record, 0) // headers
		b.records = append(binary.AppendVarint(b.records, int64(len(record))), record...)
	}
	if len(b.records) >= squeezeBytes {
		if small, codec := squeeze.Compress(&bytes.Buffer{}, b.records); len(small) < len(b.records) {
			b.records, b.codec = small, int16(codec)
		}
	}
	if n := batchHeader + len(b.records); n > batchBytesMax {
		return b, problem.New(problem.TooLarge, "%d events take %d bytes, more than the %d of one append", len(events), n, batchBytesMax)
	}
	return b, nil
}

func appendBytes(b, field []byte) []byte {
	return append(binary.AppendVarint(b, int64(len(field))), field...)
}

// encode is the batch as its partition's next one of a producer.
func (b batch) encode(p producerID, sequence int32) []byte {
	out := make([]byte, 0, batchHeader+len(b.records))
	out = binary.BigEndian.AppendUint64(out, 0)                                                  // first offset: the broker's to say
	out = binary.BigEndian.AppendUint32(out, uint32(batchHeader-batchLengthAt-4+len(b.records))) //nolint:gosec // at most batchBytesMax
	out = binary.BigEndian.AppendUint32(out, math.MaxUint32)                                     // leader epoch: the broker's to say
	out = append(out, batchMagic)
	out = binary.BigEndian.AppendUint32(out, 0)                 // checksum, below
	out = binary.BigEndian.AppendUint16(out, uint16(b.codec))   //nolint:gosec // a small enumeration
	out = binary.BigEndian.AppendUint32(out, uint32(b.count-1)) //nolint:gosec // far below 2^31
	out = binary.BigEndian.AppendUint64(out, uint64(b.at))      //nolint:gosec // a time
	out = binary.BigEndian.AppendUint64(out, uint64(b.at))      //nolint:gosec // a time
	out = binary.BigEndian.AppendUint64(out, uint64(p.id))      //nolint:gosec // never negative here
	out = binary.BigEndian.AppendUint16(out, uint16(p.epoch))   //nolint:gosec // never negative
	out = binary.BigEndian.AppendUint32(out, uint32(sequence))  //nolint:gosec // never negative
	out = binary.BigEndian.AppendUint32(out, uint32(b.count))   //nolint:gosec // far below 2^31
	out = append(out, b.records...)
	sum := crc32.Checksum(out[batchCRCAt+4:], crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(out[batchCRCAt:], sum)
	return out
}
