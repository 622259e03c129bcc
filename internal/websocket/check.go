package websocket

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// Codes of Close frames that a tunnel sends (RFC 6455 §7.4.1).
const (
	CodeNormal      = 1000
	CodeProtocol    = 1002
	CodeUnsupported = 1003

	// CodeNone stands for a Close frame without a code. It is never sent.
	CodeNone = 1005
)

// Error is a protocol error of the peer.
type Error struct {
	Code uint16 // the code for the Close frame
	text string
}

func (e *Error) Error() string { return e.text }

// The faults of a stream, in the order in which they are checked.
var (
	errRSV          = &Error{CodeProtocol, "a reserved bit is set in a WebSocket frame, and no extension was negotiated"}
	errOpcode       = &Error{CodeProtocol, "a WebSocket frame with a reserved opcode"}
	errUnmasked     = &Error{CodeProtocol, "a WebSocket frame of the client is not masked"}
	errMasked       = &Error{CodeProtocol, "a WebSocket frame of the server is masked"}
	errFragmented   = &Error{CodeProtocol, "a WebSocket control frame is fragmented"}
	errControlLong  = &Error{CodeProtocol, "a WebSocket control frame is longer than 125 bytes"}
	errContinuation = &Error{CodeProtocol, "a WebSocket continuation frame without a message that it continues"}
	errInterleaved  = &Error{CodeProtocol, "a WebSocket message begins inside another"}
	errText         = &Error{CodeUnsupported, "a WebSocket text message; a tunnel consists of binary messages"}
	errLengthForm   = &Error{CodeProtocol, "the length of a WebSocket frame is not in its shortest form"}
	errLengthSign   = &Error{CodeProtocol, "the length of a WebSocket frame is negative"}
	errCloseLength  = &Error{CodeProtocol, "the body of a WebSocket Close frame is one byte"}
	errCloseCode    = &Error{CodeProtocol, "a WebSocket Close frame with a code that must not be sent"}
	errCloseReason  = &Error{CodeProtocol, "the reason in a WebSocket Close frame is not UTF-8"}
)

// Check returns the rule that h breaks, or nil. fromClient means that the
// client has sent the frame. inMessage means that the frame is inside a
// fragmented message.
func (h Header) Check(fromClient, inMessage bool) error {
	if err := h.checkFlags(fromClient, inMessage); err != nil {
		return err
	}
	// RFC 6455 §5.2: "the minimal number of bytes MUST be used", and "the most
	// significant bit MUST be 0".
	switch {
	case h.form == length16 && h.Length <= MaxControl, h.form == length64 && h.Length <= math.MaxUint16:
		return errLengthForm
	case h.Length > math.MaxInt64:
		return errLengthSign
	}
	return nil
}

// checkFlags checks the first two bytes of the header.
func (h Header) checkFlags(fromClient, inMessage bool) error {
	if h.Opcode == Binary && h.Fin && h.RSV == 0 && h.Masked == fromClient && !inMessage {
		return nil // the usual frame
	}
	switch {
	case h.RSV != 0:
		return errRSV
	case h.Opcode.isReserved():
		return errOpcode
	case fromClient && !h.Masked:
		return errUnmasked
	case !fromClient && h.Masked:
		return errMasked
	}
	switch {
	case h.Opcode.isControl():
		if !h.Fin {
			return errFragmented
		}
		if h.form != 0 {
			return errControlLong
		}
	case h.Opcode == Continuation:
		if !inMessage {
			return errContinuation
		}
	case inMessage:
		return errInterleaved
	case h.Opcode == Text:
		return errText
	}
	return nil
}

// AppendClose appends the payload of a Close frame to b. [CodeNone] has none.
func AppendClose(b []byte, code uint16) []byte {
	if code == CodeNone {
		return b
	}
	return binary.BigEndian.AppendUint16(b, code)
}

// ParseClose parses the payload of a Close frame (RFC 6455 §5.5.1). The code is
// [CodeNone] if there is none. The reason is only checked: any hop can write it.
func ParseClose(payload []byte) (code uint16, err error) {
	switch len(payload) {
	case 0:
		return CodeNone, nil
	case 1:
		return 0, errCloseLength
	}
	code = binary.BigEndian.Uint16(payload)
	if !maySend(code) {
		return 0, errCloseCode
	}
	if !utf8.Valid(payload[2:]) {
		return 0, errCloseReason
	}
	return code, nil
}

// maySend reports whether a Close frame may have this code: a code that is
// registered for use on the wire, or one from the ranges for libraries (3000)
// and applications (4000). See RFC 6455 §7.4 and IANA's registry, which has
// added 1012 to 1014.
func maySend(code uint16) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}
