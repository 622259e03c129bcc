package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// The protocol of the application: a command and a number. An idle connection waits
// for a command, and needs no more memory than for that.
const (
	commandBulk   = 'b' // as many bytes follow; when they have been read, the answer is one
	commandEcho   = 'e' // as many messages follow; each is sent back
	commandUp     = 'u' // as bulk
	commandDown   = 'd' // as many bytes are the answer
	commandTalk   = 't' // as many messages follow, as in echo but larger
	commandDuplex = 'x' // as many bytes follow; all are sent back
	commandSize   = 9

	bulkChunk = 32 << 10
	echoSize  = 64
)

// application serves a connection after its handshake.
func application(c net.Conn) {
	defer c.Close()
	command := make([]byte, commandSize)
	for {
		if _, err := io.ReadFull(c, command); err != nil {
			return
		}
		if serveCommand(c, command[0], int64(binary.BigEndian.Uint64(command[1:]))) != nil {
			return
		}
	}
}

// serveCommand has a stack frame of its own, so that an idle connection has a small stack.
//
//go:noinline
func serveCommand(c net.Conn, command byte, n int64) error {
	switch command {
	case commandBulk:
		buf := make([]byte, bulkChunk)
		for n > 0 {
			m, err := c.Read(buf[:min(int64(len(buf)), n)])
			if err != nil {
				return err
			}
			n -= int64(m)
		}
		_, err := c.Write(buf[:1])
		return err
	case commandEcho:
		return sendBack(c, echoSize, n)
	case commandUp, commandDown:
		return serveTransfer(c, command, n)
	case commandTalk, commandDuplex:
		return serveMany(c, command, n)
	}
	return fmt.Errorf("there is no command %q", command)
}

func send(c net.Conn, command byte, n int64) error {
	b := make([]byte, commandSize)
	b[0] = command
	binary.BigEndian.PutUint64(b[1:], uint64(n))
	_, err := c.Write(b)
	return err
}

func sendBulk(c net.Conn, n int64) error {
	if err := send(c, commandBulk, n); err != nil {
		return err
	}
	buf := make([]byte, bulkChunk)
	for n > 0 {
		m, err := c.Write(buf[:min(int64(len(buf)), n)])
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	_, err := io.ReadFull(c, buf[:1])
	return err
}

func sendEcho(c net.Conn, n int) error {
	if err := send(c, commandEcho, int64(n)); err != nil {
		return err
	}
	buf := make([]byte, echoSize)
	for range n {
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
	}
	return nil
}

// sendBack sends back n messages of size bytes, one by one.
func sendBack(c net.Conn, size int, n int64) error {
	buf := make([]byte, size)
	for range n {
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
	return nil
}
