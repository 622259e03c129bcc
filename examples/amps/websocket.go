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

// This is the WebSocket protocol of AMPS's JavaScript client. It has the same headers
// and bodies as TCP, but messages in place of lengths. The client's first message says
// how bodies are sent: "text" for JSON. Each command is a binary message of 4 bytes,
// little-endian, with the count of the messages that follow, then the header, then
// the body. The server sends no counts: a header is one message, a body the next.

// maxParts bounds the messages of one command.
const maxParts = 64

type webSocketWire struct {
	conn    *websocket.Conn
	started bool            // the first message has been read
	reading context.Context // ends when read has failed
	end     context.CancelFunc
}

// newWebSocketWire accepts the upgrade request. If it returns an error, it has
// answered with that.
func newWebSocketWire(w http.ResponseWriter, r *http.Request) (*webSocketWire, error) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return nil, err
	}
	ws := &webSocketWire{conn: conn}
	ws.reading, ws.end = context.WithCancel(context.Background())
	return ws, nil
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
	if err != nil {
		ws.end()
	}
	return kind, message, err
}

func (ws *webSocketWire) more() bool { return false } // the library does not tell how much it has read

func (ws *webSocketWire) write(parts ...[]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	for _, part := range parts {
		if len(part) == 0 {
			continue // an empty body has no message; its header has the length 0
		}
		if err := ws.conn.Write(ctx, websocket.MessageText, part); err != nil {
			return err
		}
	}
	return nil
}

func (ws *webSocketWire) flush() error { return nil }

// finish sends a close frame and waits for that of the client, for 5 seconds at most.
// Everything that arrives in that time is lost. So it sends a ping first: when the
// answer arrives, everything that the client has sent before it has been read.
func (ws *webSocketWire) finish(cause error) {
	code := websocket.StatusPolicyViolation
	var bad malformed
	switch {
	case errors.Is(cause, io.EOF):
		code = websocket.StatusNormalClosure
	case errors.As(cause, &bad):
		code = websocket.StatusProtocolError
		ws.end() // the session has stopped reading
	case errors.Is(cause, errShutdown):
		code = websocket.StatusGoingAway
	}
	if ws.reading.Err() == nil {
		ctx, cancel := context.WithTimeout(ws.reading, linger)
		defer cancel()
		ws.conn.Ping(ctx)
	}
	ws.conn.Close(code, "") // the clients show the code
}

func (ws *webSocketWire) drain() {} // finish has done it

func (ws *webSocketWire) abort() {
	ws.end()
	ws.conn.CloseNow()
}
