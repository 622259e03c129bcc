package main

import (
	"bufio"
	"context"
	"io"
	"net"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// A gobwasConn reads and writes binary messages. A message leaves in one call, and
// headers are read through a buffer: gobwas/ws leaves both to the application.
type gobwasConn struct {
	net.Conn
	reader *wsutil.Reader
	writer *wsutil.Writer
	inside bool // a message
}

func newGobwasConn(c net.Conn, r *bufio.Reader, state ws.State) net.Conn {
	if r == nil {
		r = bufio.NewReader(c)
	}
	return &gobwasConn{
		Conn:   c,
		reader: &wsutil.Reader{Source: r, State: state},
		writer: wsutil.NewWriterBufferSize(c, state, ws.OpBinary, 64<<10+ws.MaxHeaderSize),
	}
}

func (c *gobwasConn) Write(b []byte) (int, error) {
	n, err := c.writer.Write(b)
	if err != nil {
		return n, err
	}
	return n, c.writer.Flush()
}

func (c *gobwasConn) Read(b []byte) (int, error) {
	for {
		if !c.inside {
			if _, err := c.reader.NextFrame(); err != nil {
				return 0, err
			}
			c.inside = true
		}
		n, err := c.reader.Read(b)
		if err == io.EOF {
			c.inside, err = false, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func listenGobwas(_ *site, handle func(net.Conn)) (string, error) {
	l, err := listenLoopback()
	if err != nil {
		return "", err
	}
	go acceptAll(l, func(c net.Conn) {
		if _, err := ws.Upgrade(c); err != nil {
			c.Close()
			return
		}
		handle(newGobwasConn(c, nil, ws.StateServerSide))
	})
	return l.Addr().String(), nil
}

func dialGobwas(s *site) (dialFunc, error) {
	d := ws.Dialer{NetDial: s.net.DialContext, Header: ws.HandshakeHeaderHTTP(fields)}
	return func(ctx context.Context, address string) (net.Conn, error) {
		c, r, _, err := d.Dial(ctx, "ws://"+address+target)
		if err != nil {
			return nil, err
		}
		return newGobwasConn(c, r, ws.StateClientSide), nil
	}, nil
}
