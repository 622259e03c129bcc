package applications

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// dialJumpHost runs a jump host, and returns a client that is connected to it.
func dialJumpHost(t *testing.T) *ssh.Client {
	t.Helper()
	l := lab.Listen(t)
	key := serveSSH(t, l)
	client, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{
		User: "jane", HostKeyCallback: ssh.FixedHostKey(key), Timeout: lab.Timeout,
	})
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

// serveSSH runs a jump host on l, and returns its host key. Its clients must close before
// the end of the test.
func serveSSH(t *testing.T, l net.Listener) ssh.PublicKey {
	t.Helper()
	signer := writeSSHKey(t, t.TempDir(), "host")
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	var host sync.WaitGroup
	serve := func(c net.Conn) {
		defer c.Close()
		_, channels, requests, err := ssh.NewServerConn(c, config)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		for channel := range channels {
			host.Go(func() { forwardChannel(channel) })
		}
	}
	host.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		host.Wait()
	})
	return signer.PublicKey()
}

// forwardChannel connects a channel to the address that it names.
func forwardChannel(c ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if c.ChannelType() != "direct-tcpip" || ssh.Unmarshal(c.ExtraData(), &to) != nil {
		c.Reject(ssh.UnknownChannelType, "only direct-tcpip")
		return
	}
	server, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer server.Close()
	channel, requests, err := c.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(server, channel)
		server.Close()
	}()
	io.Copy(channel, server)
	channel.Close()
	<-ended
}

// TestSSHJumpHost reaches the proxy through a jump host: NetDialer is an SSH client. Its
// connections have no deadlines.
func TestSSHJumpHost(t *testing.T) {
	nginx := lab.StartNginx(t, lab.ServeEcho(t))
	plain, edge := nginx.Plain, nginx.TLS
	jump := dialJumpHost(t)
	for name, f := range map[string]lab.Frontend{"plain": plain, "tls": edge} {
		t.Run(name, func(t *testing.T) {
			d := f.Dialer()
			d.NetDialer = jump
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
				c, err := d.DialContext(ctx, "tcp", f.Address)
				require.NoError(t, err)
				cancel() // the context bounds only the handshake
				require.Error(t, c.SetDeadline(time.Now().Add(lab.Timeout)), "with deadlines, this test would prove nothing")
				require.NoError(t, lab.Echo(c, make([]byte, 1<<20)))
				// The error is ignored: if the other end has closed first, Close of an
				// SSH channel returns io.EOF.
				c.Close()
			}
			d.Path = "/elsewhere"
			_, err := d.DialContext(t.Context(), "tcp", f.Address)
			require.Equal(t, 404, lab.StatusError(t, err).StatusCode)
		})
	}
	t.Run("Unreachable", func(t *testing.T) {
		d := plain.Dialer()
		d.NetDialer = jump
		_, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:1") // a privileged port, at which nothing listens
		var refused *ssh.OpenChannelError
		require.ErrorAs(t, err, &refused)
	})
}

// TestSSHJumpHostSilent has a server behind the jump host that accepts and sends nothing.
// The dial must still end, and must close the connection to the server.
func TestSSHJumpHostSilent(t *testing.T) {
	jump := dialJumpHost(t)
	certificate, _ := lab.NewCertificate(t)
	cause := errors.New("no longer wanted")
	for _, test := range []struct {
		name    string
		timeout time.Duration
		context func(t *testing.T, heard <-chan struct{}) context.Context
		check   func(t *testing.T, err error, stage string)
	}{
		{
			"HandshakeTimeout", 50 * time.Millisecond,
			func(t *testing.T, _ <-chan struct{}) context.Context { return t.Context() },
			func(t *testing.T, err error, _ string) {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				requireTimeout(t, err)
			},
		},
		{
			"Deadline", -1,
			func(t *testing.T, _ <-chan struct{}) context.Context {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				t.Cleanup(cancel)
				return ctx
			},
			func(t *testing.T, err error, _ string) {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				requireTimeout(t, err)
			},
		},
		{
			"Cancelled", -1,
			func(t *testing.T, heard <-chan struct{}) context.Context {
				ctx, cancel := context.WithCancelCause(t.Context())
				go func() {
					<-heard
					cancel(cause)
				}()
				return ctx
			},
			func(t *testing.T, err error, stage string) {
				require.ErrorIs(t, err, cause)
				// In the other cases, the time can end in an earlier stage.
				require.ErrorContains(t, err, stage)
			},
		},
	} {
		for _, layer := range []string{"upgrade", "tls", "upgrade over tls", "tunnel tls"} {
			t.Run(test.name+"/"+layer, func(t *testing.T) {
				l := lab.Listen(t)
				d := &preflight.PreflightDialer{NetDialer: jump, HandshakeTimeout: test.timeout}
				stage := "wait for the 101"
				switch layer {
				case "tls":
					d.TLSConfig, stage = &tls.Config{InsecureSkipVerify: true}, "TLS handshake"
				case "upgrade over tls":
					d.TLSConfig = &tls.Config{InsecureSkipVerify: true}
					l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}})
				case "tunnel tls":
					d.TunnelTLSConfig, stage = &tls.Config{InsecureSkipVerify: true}, "TLS handshake in the tunnel"
				}
				heard, read := make(chan struct{}, 1), make(chan error, 1)
				go func() { read <- serveSilently(l, layer == "tunnel tls", heard) }()
				_, err := dialWithin(t, func() (net.Conn, error) {
					return d.DialContext(test.context(t, heard), "tcp", l.Addr().String())
				})
				test.check(t, err, stage)
				require.NoError(t, lab.Receive(t, read))
			})
		}
	}
}

// serveSilently accepts one connection and reads to its end. It answers the upgrade request
// if upgrade is set, and nothing else. heard receives a value when something has arrived
// that it will not answer. It is closed at the end.
func serveSilently(l net.Listener, upgrade bool, heard chan<- struct{}) error {
	defer close(heard)
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(lab.Timeout))
	r := bufio.NewReader(c)
	if upgrade {
		if _, err := http.ReadRequest(r); err != nil {
			return ignoreEOF(err)
		}
		if _, err := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Tunnel: tls\r\n\r\n"); err != nil {
			return err
		}
	}
	if _, err := r.Peek(1); err != nil {
		return ignoreEOF(err)
	}
	heard <- struct{}{}
	_, err = io.Copy(io.Discard, r)
	return ignoreEOF(err)
}

// ignoreEOF returns nil for the end of the connection. The dial may have ended before it
// has sent anything, and it closes the connection without a message.
func ignoreEOF(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// requireTimeout requires that err is a timeout.
func requireTimeout(t *testing.T, err error) {
	t.Helper()
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
}

// dialWithin returns what dial returns. It fails if dial takes too long.
func dialWithin(t *testing.T, dial func() (net.Conn, error)) (net.Conn, error) {
	t.Helper()
	var c net.Conn
	done := make(chan error, 1)
	go func() {
		var err error
		c, err = dial()
		done <- err
	}()
	err := lab.Receive(t, done)
	return c, err
}
