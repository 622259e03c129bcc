package amps

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A peer is the other end of a conversation. It is a client of the server with the parts of
// AMPS that the tests need. It shares no code with the server and the clients under test.
type peer struct {
	t        *testing.T
	conn     net.Conn
	w        *bufio.Writer
	commands int
	acks     chan header
	messages chan []byte // of all subscriptions
}

type header struct {
	Command string `json:"c"`
	ID      string `json:"cid"`
	Ack     string `json:"a,omitempty"`
	Status  string `json:"status,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Topic   string `json:"t,omitempty"`
	Client  string `json:"client_name,omitempty"`
	Type    string `json:"mt,omitempty"`
}

// joinServer connects to a server directly, and logs on.
func joinServer(t *testing.T, address string, fields http.Header) *peer {
	t.Helper()
	dialer := preflight.PreflightDialer{Path: "/amps/json", Header: fields}
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	p := &peer{
		t: t, conn: conn, w: bufio.NewWriter(conn),
		acks:     make(chan header, 1),
		messages: make(chan []byte, 2*count), // more than any test sends
	}
	var reader sync.WaitGroup
	reader.Go(p.read)
	t.Cleanup(func() {
		conn.Close()
		reader.Wait()
	})
	p.command(header{Command: "logon", Client: "peer of " + t.Name(), Type: "json"})
	return p
}

func (p *peer) read() {
	defer close(p.acks)
	for r := bufio.NewReader(p.conn); ; {
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(length[:]))
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		in := json.NewDecoder(bytes.NewReader(frame))
		var h header
		if err := in.Decode(&h); err != nil {
			p.t.Errorf("the server sends %q: %v", frame, err)
			return
		}
		switch h.Command {
		case "ack":
			p.acks <- h
		case "p", "publish":
			p.messages <- frame[in.InputOffset():]
		}
	}
}

// write sends a frame.
func (p *peer) write(h header, body string) {
	p.t.Helper()
	frame, err := json.Marshal(h)
	require.NoError(p.t, err)
	frame = append(frame, body...)
	p.w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(frame))))
	p.w.Write(frame) // a bufio.Writer keeps its first error
}

// command sends a command, and waits until the server has processed it.
func (p *peer) command(h header) {
	p.t.Helper()
	p.commands++
	h.ID, h.Ack = fmt.Sprint(p.commands), "processed"
	p.write(h, "")
	require.NoError(p.t, p.w.Flush())
	select {
	case ack, ok := <-p.acks:
		require.True(p.t, ok, "the server has closed the connection")
		require.Equal(p.t, "success", ack.Status, "%+v", ack)
		require.Equal(p.t, h.ID, ack.ID)
	case <-time.After(timeout):
		require.FailNow(p.t, "no ack", h.Command)
	}
}

// subscribe subscribes to a topic.
func (p *peer) subscribe(topic string) {
	p.t.Helper()
	p.command(header{Command: "subscribe", Topic: topic})
}

// publish publishes messages. It returns when the server has delivered them.
func (p *peer) publish(topic string, messages []string) {
	p.t.Helper()
	for _, message := range messages {
		p.write(header{Command: "publish", Topic: topic}, message)
	}
	p.command(header{Command: "flush"})
}

// collect returns the next n messages. It requires that no other message has been published
// so far.
func (p *peer) collect(n int) []string {
	p.t.Helper()
	var got []string
	deadline := time.After(timeout)
	for len(got) < n {
		select {
		case message := <-p.messages:
			got = append(got, string(message))
		case <-deadline:
			require.FailNow(p.t, "messages are missing", "%d of %d have come", len(got), n)
		}
	}
	p.command(header{Command: "flush"}) // the answer follows all messages
	require.Empty(p.t, p.messages, "there are too many messages")
	return got
}
