package vectors_test

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/preflight-go/preflight/internal/frame"
	"github.com/preflight-go/preflight/spec/vectors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestStreams runs the frame layer, as the receiver, on the streams of capsules and of WebSocket
// frames.
func TestStreams(t *testing.T) {
	for _, v := range of(t, vectors.Capsules, vectors.WebSocket) {
		for _, role := range []string{"server", "client"} {
			if v.Role == role || v.Role == "any" {
				t.Run(v.ID+"/"+role, func(t *testing.T) { runStream(t, v, role == "client") })
			}
		}
	}
}

func runStream(t *testing.T, v vectors.Vector, client bool) {
	chunkings(v, func(chunks [][]byte) {
		synctest.Test(t, func(t *testing.T) { receive(t, v, client, chunks, 4096) })
	})
	synctest.Test(t, func(t *testing.T) { receive(t, v, client, [][]byte{v.Bytes}, 1) })
	// Bytes that arrived with the head come before those of the transport.
	synctest.Test(t, func(t *testing.T) { receive(t, v, client, [][]byte{v.Bytes}, 4096, true) })
}

// receive reads one stream with Reads of size bytes. It runs in a synctest bubble.
func receive(t *testing.T, v vectors.Vector, client bool, chunks [][]byte, size int, rest ...bool) {
	cfg := frame.Config{WebSocket: v.Kind == vectors.WebSocket, Client: client}
	if rest != nil {
		cfg.Rest, chunks = chunks[0], nil
	}
	below := newTransport(chunks, v.Transport)
	c := frame.New(below, cfg)
	defer func() {
		below.end()
		c.Close()
	}()
	r := startReading(c, size)
	synctest.Wait() // until all effects of the bytes have happened

	r.check(t, v)
	if v.After == "malformed" {
		_, err := c.Write([]byte("x"))
		assert.ErrorContains(t, err, "protocol error of the peer", "Write after the end")
	}
	checkAnswers(t, v, parseSent(t, below.sent(), cfg.WebSocket, client))
}

// A reading is what Read has returned.
type reading struct {
	data []byte
	err  error
	done chan struct{}
}

// startReading reads r until it ends. The result may be used after synctest.Wait.
func startReading(r io.Reader, size int) *reading {
	got := &reading{done: make(chan struct{})}
	go func() {
		defer close(got.done)
		buf := make([]byte, size)
		for got.err == nil {
			var n int
			n, got.err = r.Read(buf)
			got.data = append(got.data, buf[:n]...)
			if n == 0 && got.err == nil {
				got.err = io.ErrNoProgress // Read must not return 0 bytes without an error: M33
			}
		}
	}()
	return got
}

// check compares what was read with the vector.
func (r *reading) check(t *testing.T, v vectors.Vector) {
	t.Helper()
	// A receiver may pass on less data before a protocol error. This one passes on all of it.
	require.Equal(t, string(v.Data), string(r.data))
	ended := false
	select {
	case <-r.done:
		ended = true
	default:
	}
	require.Equal(t, v.End != "open", ended, "%v", r.err)
	switch v.End {
	case "clean":
		assert.Equal(t, io.EOF, r.err)
	case "truncated":
		assert.ErrorIs(t, r.err, io.ErrUnexpectedEOF)
	case "reset":
		assert.ErrorIs(t, r.err, syscall.ECONNRESET)
	case "malformed":
		assert.ErrorContains(t, r.err, "protocol error of the peer")
		assert.False(t, errors.Is(r.err, io.ErrUnexpectedEOF), "%v", r.err)
	}
}

// checkAnswers compares what was sent with the vector.
func checkAnswers(t *testing.T, v vectors.Vector, s sent) {
	t.Helper()
	if v.Pong != nil {
		require.NotEmpty(t, s.pongs)
		assert.Equal(t, string(v.Pong), s.pongs[len(s.pongs)-1], "the last PONG")
	}
	if v.WSPong != nil {
		require.NotEmpty(t, s.wsPongs)
		assert.Equal(t, string(v.WSPong), s.wsPongs[len(s.wsPongs)-1], "the last Pong frame")
	}
	if v.Close != "" {
		assert.Equal(t, []string{v.Close}, s.closes)
	}
	assert.False(t, s.final, "FINAL_DATA was sent although the application has not ended its direction: M47")
}
