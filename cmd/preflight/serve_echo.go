package main

import (
	"errors"
	"net"
	"time"
)

// An echo is the server of --echo, within the process: what is written to it can be read from
// it. It keeps nothing: a Write returns when Read has taken everything.
type echo struct {
	net.Conn // to read from
	in       net.Conn
}

func newEcho() *echo {
	in, out := net.Pipe()
	return &echo{out, in}
}

func (e *echo) Write(b []byte) (int, error) { return e.in.Write(b) }

// SetDeadline implements [net.Conn].
func (e *echo) SetDeadline(t time.Time) error {
	return errors.Join(e.SetReadDeadline(t), e.SetWriteDeadline(t))
}

// SetWriteDeadline implements [net.Conn].
func (e *echo) SetWriteDeadline(t time.Time) error { return e.in.SetWriteDeadline(t) }

// CloseWrite ends what Read returns.
func (e *echo) CloseWrite() error { return e.in.Close() }

func (e *echo) Close() error {
	e.in.Close()
	return e.Conn.Close()
}
