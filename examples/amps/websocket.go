package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/coder/websocket"
)

// AMPS's JavaScript client speaks WebSocket, and frames by messages what goes by
// lengths over TCP. It begins with a text message that says how bodies travel: as
// "text", where the message type is json. Each command is a binary message of 4
// bytes, little-endian, that counts the messages that follow: the header, then the
// parts of the body. The server sends no counts: a header is one message, a body
// the next.

// maxParts bounds the messages of one command.
const maxParts = 64

type webSocketWire struct {
	conn    *websocket.Conn
	started bool // the first message has come
}

// newWebSocketWire answers the upgrade request. On an error, an answer has been
// sent.
func newWebSocketWire(w http.ResponseWriter, r *http.Request) (*webSocketWire, error) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return nil, err
	}
	return &webSocketWire{conn: conn}, nil
}

func (ws *webSocketWire) read(limit int) ([]byte, error) {
	if !ws.started {
		_, mode, err := ws.message(limit)
		if err != nil {
			return nil, err
		}
		if string(mode) != "text" {
			return nil, malformed(`the first message must be "text"`)
		}
		ws.started = true
	}
	kind, count, err := ws.message(limit)
	if err != nil {
		return nil, err
	}
	if kind != websocket.MessageBinary || len(count) != 4 {
		return nil, malformed("a count of 4 bytes must stand before the messages of a command")
	}
	n := binary.LittleEndian.Uint32(count)
	if n < 1 || n > maxParts {
		return nil, malformed(fmt.Sprintf("a command of %d messages", n))
	}
	var frame []byte
	for range n {
		_, part, err := ws.message(limit - len(frame))
		if err != nil {
			return nil, err
		}
		frame = append(frame, part...)
	}
	return frame, nil
}

func (ws *webSocketWire) message(limit int) (websocket.MessageType, []byte, error) {
	ws.conn.SetReadLimit(int64(limit))
	kind, message, err := ws.conn.Read(context.Background()) // abort ends it
	var closed websocket.CloseError
	switch {
	case errors.Is(err, websocket.ErrMessageTooBig):
		err = malformed("a command is above the limit")
	case errors.As(err, &closed) && (closed.Code == websocket.StatusNormalClosure || closed.Code == websocket.StatusGoingAway):
		err = io.EOF
	}
	return kind, message, err
}

func (ws *webSocketWire) more() bool { return false } // the library does not tell

func (ws *webSocketWire) write(parts ...[]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	for _, part := range parts {
		if len(part) == 0 {
			continue // there is no message for an empty body: its header says so
		}
		if err := ws.conn.Write(ctx, websocket.MessageText, part); err != nil {
			return err
		}
	}
	return nil
}

func (ws *webSocketWire) flush() error { return nil }

// finish sends a close frame and waits for the client's, for 5 seconds at most.
// What comes in that time is lost, so the client's answer to a ping is awaited
// first: what it has sent before that has been read by then.
func (ws *webSocketWire) finish(cause error) {
	var bad malformed
	switch {
	case cause == nil, errors.Is(cause, io.EOF):
		ws.conn.Close(websocket.StatusNormalClosure, "")
		return
	case errors.As(cause, &bad):
		ws.conn.Close(websocket.StatusProtocolError, "malformed input")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), linger)
	defer cancel()
	ws.conn.Ping(ctx)
	if errors.Is(cause, errShutdown) {
		ws.conn.Close(websocket.StatusGoingAway, errShutdown.Error())
		return
	}
	ws.conn.Close(websocket.StatusPolicyViolation, "the server has ended the connection")
}

func (ws *webSocketWire) drain() {} // finish has done it

func (ws *webSocketWire) abort() { ws.conn.CloseNow() }
