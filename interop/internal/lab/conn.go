package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// DialTCP opens a TCP connection without a tunnel. It has a deadline, and it is
// closed at the end of the test.
func DialTCP(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	return WithDeadline(t, c).(*net.TCPConn)
}

// WithDeadline sets a deadline for c, and closes c at the end of the test.
func WithDeadline(t *testing.T, c net.Conn) net.Conn {
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(Timeout))
	return c
}

// Echo sends data to an echo server and requires the same data back. It reads while
// it writes: with much data, both sides could otherwise wait for each other.
func Echo(c net.Conn, data []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	_, err := io.ReadFull(c, got)
	if err = errors.Join(err, <-sent); err == nil && !bytes.Equal(got, data) {
		err = errors.New("the echo differs from what was sent")
	}
	return err
}

// ExchangeLine writes a line, and requires another line as the answer.
func ExchangeLine(c io.Writer, in *bufio.Reader, line, want string) error {
	if _, err := fmt.Fprintf(c, "%s\r\n", line); err != nil {
		return err
	}
	got, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	if got != want+"\r\n" {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}

// RandomBytes returns bytes that are the same in each call.
func RandomBytes(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(data)
	return data
}

// StatusError requires that err is or wraps a StatusError, and returns it.
func StatusError(t *testing.T, err error) *preflight.StatusError {
	t.Helper()
	var e *preflight.StatusError
	require.ErrorAs(t, err, &e)
	return e
}

// ReadBody requires the status 200, and returns the body.
func ReadBody(t *testing.T, response *http.Response) []byte {
	t.Helper()
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return body
}
