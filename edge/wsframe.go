package edge

import "encoding/binary"

// A server's WebSocket frames are not masked, so one framed buffer serves every
// socket: it is made once per event and never changed.
const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xa
	finBit  = 0x80
	// controlBytesMax is RFC 6455's bound of a control frame's payload.
	controlBytesMax = 125
)

// Close codes. Those from 4000 on are ours; docs/protocol.md lists them.
const (
	closeGoingAway = 1001 // the edge stops: connect to another, resume
	closeTooBig    = 1009 // a frame over the limit
	closeToken     = 4001 // the token has expired: get another, resume
	closeMisuse    = 4002 // flood, or resume announced and not sent
	closeRefused   = 4003 // the cell does not serve this user
	closeResume    = 4008 // too slow, or no gateway in time: connect again, resume
)

// framed is a WebSocket frame with its header.
func framed(op byte, payload []byte) []byte {
	return appendFramed(make([]byte, 0, headMax+len(payload)), op, payload)
}

// headMax is the longest header of a frame.
const headMax = 10

// appendFramed appends such a frame to b.
func appendFramed(b []byte, op byte, payload []byte) []byte {
	b = append(b, finBit|op)
	switch n := len(payload); {
	case n <= controlBytesMax:
		b = append(b, byte(n))
	case n <= 0xffff:
		b = append(b, 126)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b = append(b, 127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return append(b, payload...)
}

func closeFrame(code uint16, reason string) []byte {
	if len(reason) > controlBytesMax-2 {
		reason = reason[:controlBytesMax-2]
	}
	return framed(opClose, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}
