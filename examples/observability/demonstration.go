package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/preflight-go/preflight"
	"go.opentelemetry.io/otel/trace"
)

const tunnels = 3 // in each demonstration

// clients are the clients of the server. Most of them come through the proxy.
type clients struct {
	edge, server string // addresses of the proxy and of the server behind it
	dialer       preflight.PreflightDialer
	tracer       trace.Tracer
}

// demonstrate plays each act once. Each act has a trace of its own.
func (c *clients) demonstrate(ctx context.Context, notes io.Writer) error {
	for _, act := range []struct {
		what string
		play func(context.Context) error
	}{
		{"tunnels", c.tunnels},
		{"a tunnel that the server refuses", c.refused},
		{"a client that speaks TLS to a proxy that does not", c.failed},
		{"a plain client, straight to the server", c.plain},
		{"an ordinary request", c.ordinary},
		{"a health check that only connects", c.probe},
		{"more slow clients than the server has room for", c.slow},
	} {
		if err := c.play(ctx, act.what, act.play); err != nil {
			return fmt.Errorf("%s: %w", act.what, err)
		}
		fmt.Fprintln(notes, "played:", act.what)
	}
	return nil
}

// play plays an act in a span of the application.
func (c *clients) play(ctx context.Context, what string, act func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ctx, span := c.tracer.Start(ctx, what)
	defer span.End()
	return act(ctx)
}

func (c *clients) tunnels(ctx context.Context) error {
	for range tunnels {
		conn, err := c.dialer.DialContext(ctx, "tcp", c.edge)
		if err != nil {
			return err
		}
		if err := converse(conn); err != nil {
			return err
		}
	}
	return nil
}

func (c *clients) refused(ctx context.Context) error {
	dialer := c.dialer
	dialer.Path = "/forbidden"
	var refusal *preflight.StatusError
	if err := unexpected(dialer.DialContext(ctx, "tcp", c.edge)); !errors.As(err, &refusal) {
		return err
	}
	return nil
}

func (c *clients) failed(ctx context.Context) error {
	dialer := c.dialer
	dialer.TLSConfig = new(tls.Config)
	var noTLS tls.RecordHeaderError
	if err := unexpected(dialer.DialContext(ctx, "tcp", c.edge)); !errors.As(err, &noTLS) {
		return err
	}
	return nil
}

// unexpected returns the error of a dial that must fail, or an error if it succeeds.
func unexpected(conn net.Conn, err error) error {
	if err == nil {
		conn.Close()
		return errors.New("the dial must fail")
	}
	return err
}

func (c *clients) plain(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.server)
	if err != nil {
		return err
	}
	return converse(conn)
}

// converse sends a line, reads the answer, and closes the connection.
func converse(conn net.Conn) error {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && answer != "HELLO\n" {
		err = fmt.Errorf("the server answered %q", answer)
	}
	return err
}

func (c *clients) ordinary(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.edge+"/healthz", nil)
	if err != nil {
		return err
	}
	request.Close = true // the connection
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// probe resets its connection, as HAProxy and many load balancers do. A check that closes it
// in order looks like a plain client that waits until the server sends something.
func (c *clients) probe(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.server)
	if err != nil {
		return err
	}
	return errors.Join(conn.(*net.TCPConn).SetLinger(0), conn.Close())
}

// slow uses all places for handshakes with clients that stop in the middle of their requests.
// The next client gets the place of the one that has been silent for the longest time, if
// that is at least a second.
func (c *clients) slow(ctx context.Context) error {
	var crowd []net.Conn
	for range maxPending + 1 {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.server)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(timeout))
		if _, err := io.WriteString(conn, "GET /"); err != nil {
			return err
		}
		crowd = append(crowd, conn)
	}
	if _, err := crowd[0].Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("none had to leave")
	}
	// The others close, and the program waits until the server has noticed that. If the
	// server shut down first, it would count them as refused.
	for _, conn := range crowd[1:] {
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			return err
		}
	}
	return nil
}
