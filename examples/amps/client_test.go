package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A frame is what a client receives: a header with its body, or a record.
type frame struct {
	header map[string]any
	body   string
}

func (f frame) str(name string) string { s, _ := f.header[name].(string); return s }

// A client is a client of the protocol. It shares no code with the server.
type client struct {
	t    *testing.T
	conn net.Conn        // of a TCP client
	ws   *websocket.Conn // of a WebSocket client
	next []frame         // the other records of the last frame
	sows int             // the number of frames with records so far
}

// A modestDialer makes connections with a small receive buffer. For a client that does not
// read, the kernel then holds only the 4 MiB of the send buffer of the server.
type modestDialer struct{}

func (modestDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return conn, conn.(*net.TCPConn).SetReadBuffer(64 << 10)
}

// ways are the ways in which clients connect.
var ways = map[string]func(t *testing.T, p *program, header http.Header) (*client, error){
	"plain": func(t *testing.T, p *program, _ http.Header) (*client, error) {
		conn, err := modestDialer{}.DialContext(t.Context(), "tcp", p.address)
		return &client{t: t, conn: conn}, err
	},
	"TLS": func(t *testing.T, p *program, _ http.Header) (*client, error) {
		conn, err := modestDialer{}.DialContext(t.Context(), "tcp", p.address)
		return &client{t: t, conn: tls.Client(conn, &tls.Config{RootCAs: p.roots, ServerName: "127.0.0.1"})}, err
	},
	"tunnel": func(t *testing.T, p *program, header http.Header) (*client, error) {
		d := &preflight.PreflightDialer{NetDialer: modestDialer{}, Path: "/amps/json", Header: header}
		conn, err := d.DialContext(t.Context(), "tcp", p.address)
		return &client{t: t, conn: conn}, err
	},
	"tunnel over TLS": func(t *testing.T, p *program, header http.Header) (*client, error) {
		d := &preflight.PreflightDialer{NetDialer: modestDialer{}, Path: "/amps/json", Header: header, TLSConfig: &tls.Config{RootCAs: p.roots}}
		conn, err := d.DialContext(t.Context(), "tcp", p.address)
		return &client{t: t, conn: conn}, err
	},
	// AMPS's clients send this token for tcps: URLs, inside the same TLS.
	"tcps": func(t *testing.T, p *program, header http.Header) (*client, error) {
		d := &preflight.PreflightDialer{
			NetDialer: modestDialer{}, Path: "/amps/json", Header: header,
			TLSConfig: &tls.Config{RootCAs: p.roots}, Protocol: "tcps",
		}
		conn, err := d.DialContext(t.Context(), "tcp", p.address)
		return &client{t: t, conn: conn}, err
	},
	"WebSocket": func(t *testing.T, p *program, header http.Header) (*client, error) {
		options := &websocket.DialOptions{
			HTTPHeader: header,
			HTTPClient: &http.Client{Transport: &http.Transport{DialContext: modestDialer{}.DialContext}},
		}
		ws, _, err := websocket.Dial(t.Context(), "ws://"+p.address+"/amps/json", options)
		if err != nil {
			return nil, err
		}
		ws.SetReadLimit(-1)
		return &client{t: t, ws: ws}, ws.Write(t.Context(), websocket.MessageText, []byte("text"))
	},
}

// dial connects in one of the ways and, with a name, logs on.
func (p *program) dial(t *testing.T, way, name string) *client {
	t.Helper()
	c, err := ways[way](t, p, nil)
	require.NoError(t, err)
	t.Cleanup(c.close)
	if c.conn != nil {
		require.NoError(t, c.conn.SetDeadline(time.Now().Add(limit)))
	}
	if name != "" {
		ack := c.ask(`{"c":"logon","cid":"l","a":"processed","client_name":"` + name + `"}`)
		require.Equal(t, "success", ack.str("status"), ack.header)
	}
	return c
}

func (c *client) close() {
	if c.ws != nil {
		c.ws.CloseNow()
		return
	}
	c.conn.Close()
}

// send sends a command with its body.
func (c *client) send(header string, body ...string) {
	c.t.Helper()
	require.NoError(c.t, c.trySend(header, body...))
}

func (c *client) trySend(header string, body ...string) error {
	if c.ws == nil {
		text := header + strings.Join(body, "")
		_, err := c.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
		return err
	}
	count := binary.LittleEndian.AppendUint32(nil, uint32(1+len(body)))
	err := c.ws.Write(c.t.Context(), websocket.MessageBinary, count)
	for _, message := range append([]string{header}, body...) {
		if err == nil {
			err = c.ws.Write(c.t.Context(), websocket.MessageText, []byte(message))
		}
	}
	return err
}

// receive returns the next frame, or the next record of one.
func (c *client) receive() (frame, error) {
	if len(c.next) == 0 {
		read := c.readTCP
		if c.ws != nil {
			read = c.readWebSocket
		}
		if err := read(); err != nil {
			return frame{}, err
		}
	}
	f := c.next[0]
	c.next = c.next[1:]
	return f, nil
}

func (c *client) readTCP() error {
	var length [4]byte
	if _, err := io.ReadFull(c.conn, length[:]); err != nil {
		return err
	}
	text := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(c.conn, text); err != nil {
		return err
	}
	header, rest, err := splitHeader(text)
	if err != nil {
		return err
	}
	if header["c"] != "sow" {
		c.next = append(c.next, frame{header, string(rest)})
		return nil
	}
	c.sows++
	for len(rest) > 0 { // a header and a body for each record
		record, after, err := splitHeader(rest)
		if err != nil {
			return err
		}
		n := int(record["l"].(float64))
		record["c"], record["query_id"] = "sow", header["query_id"]
		c.next = append(c.next, frame{record, string(after[:n])})
		rest = after[n:]
	}
	if len(c.next) != int(header["bs"].(float64)) {
		return fmt.Errorf("%d records in %v", len(c.next), header)
	}
	return nil
}

func splitHeader(text []byte) (map[string]any, []byte, error) {
	in := json.NewDecoder(strings.NewReader(string(text)))
	var header map[string]any
	err := in.Decode(&header)
	return header, text[in.InputOffset():], err
}

func (c *client) readWebSocket() error {
	message := func() (string, error) {
		ctx, cancel := context.WithTimeout(c.t.Context(), limit)
		defer cancel()
		kind, text, err := c.ws.Read(ctx)
		if err == nil && kind != websocket.MessageText {
			err = fmt.Errorf("a message of kind %v", kind)
		}
		return string(text), err
	}
	object := func() (header map[string]any, err error) {
		text, err := message()
		if err == nil {
			err = json.Unmarshal([]byte(text), &header)
		}
		return header, err
	}
	header, err := object()
	if err != nil {
		return err
	}
	switch {
	case header["c"] == "sow":
		c.sows++
		for range int(header["bs"].(float64)) {
			record, err := object()
			if err != nil {
				return err
			}
			body, err := message()
			if err != nil {
				return err
			}
			record["c"], record["query_id"] = "sow", header["query_id"]
			c.next = append(c.next, frame{record, body})
		}
	case header["l"] != nil && header["l"] != 0.0:
		body, err := message()
		if err != nil {
			return err
		}
		c.next = append(c.next, frame{header, body})
	default:
		c.next = append(c.next, frame{header, ""})
	}
	return nil
}

// want returns the next frame.
func (c *client) want() frame {
	c.t.Helper()
	f, err := c.receive()
	require.NoError(c.t, err)
	return f
}

// ask sends a command and returns the next frame.
func (c *client) ask(header string, body ...string) frame {
	c.t.Helper()
	c.send(header, body...)
	return c.want()
}

// done waits until everything that was sent before has been executed.
func (c *client) done() {
	c.t.Helper()
	require.Equal(c.t, "flushed", c.ask(`{"c":"flush","cid":"flushed","a":"processed"}`).str("cid"))
}
