package frame

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/preflight-go/preflight/internal/websocket"
)

// errOpenCapsule is what CloseWrite returns after a Write that ended inside a capsule.
var errOpenCapsule = errors.New("a Write was cut short inside a capsule; write the rest first")

// errLastTooLong is what WriteLast returns for more bytes than it keeps.
var errLastTooLong = errors.New("the last bytes before the end are too long")

// protocolError is a violation of the protocol by the peer.
type protocolError struct{ err error }

func (e *protocolError) Error() string { return "protocol error of the peer: " + e.err.Error() }
func (e *protocolError) Unwrap() error { return e.err }

// truncatedError is the end of a stream without FINAL_DATA.
type truncatedError struct {
	silence time.Duration // how long nothing had arrived before the end
	atMost  bool          // silence is an upper bound
	code    uint16        // the code of the WebSocket Close frame; 0: the transport ended
}

func (e *truncatedError) Error() string {
	end := "the transport ended"
	switch e.code {
	case 0:
	case websocket.CodeNone:
		end = "the peer sent a WebSocket Close"
	default:
		end = fmt.Sprintf("the peer sent a WebSocket Close with code %d", e.code)
	}
	after := "after"
	if e.atMost {
		after = "after at most"
	}
	return fmt.Sprintf("%v: %s before the stream was complete, %s %v of silence",
		io.ErrUnexpectedEOF, end, after, e.silence.Round(time.Millisecond))
}

func (e *truncatedError) Unwrap() error { return io.ErrUnexpectedEOF }

// unconfirmedError is the end of a transport before the peer has confirmed FINAL_DATA.
type unconfirmedError struct{ err error }

func (e *unconfirmedError) Error() string {
	return "the peer has not confirmed that it has received everything: " + e.err.Error()
}

func (e *unconfirmedError) Unwrap() error { return e.err }

// idleError is the end of a connection by MaxIdleTimeout. It has no Timeout method: a
// caller that reads again after each timeout would never stop.
type idleError struct{ limit time.Duration }

func (e *idleError) Error() string {
	return fmt.Sprintf("%v: nothing came from the peer for %v", syscall.ETIMEDOUT, e.limit)
}

func (e *idleError) Unwrap() error { return syscall.ETIMEDOUT }

// opError describes an error of c as package net does.
func (c *Conn) opError(op string, err error) error {
	e := &net.OpError{Op: op, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
	if e.Addr != nil {
		e.Net = e.Addr.Network()
	}
	return e
}

// isTimeout reports whether err is an expired deadline. After that, the connection can be
// used again. ETIMEDOUT is different, although its Timeout method returns true: the kernel
// has aborted the connection.
func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}

// isEOF reports whether err says that the transport has ended.
func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
