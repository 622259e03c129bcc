package interop

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// outSSH is a client of a jump host that runs until the end of the test.
func outSSH(t *testing.T) *ssh.Client {
	t.Helper()
	l := listenTCP(t)
	key := serveSSH(t, l)
	client, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{
		User: "jane", HostKeyCallback: ssh.FixedHostKey(key), Timeout: patience,
	})
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

// serveSSH runs a jump host until the end of the test, and returns its key. Its
// clients must have ended by then.
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
			host.Go(func() { outForwardChannel(channel) })
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

// outForwardChannel is what a jump host does with a channel.
func outForwardChannel(c ssh.NewChannel) {
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

// The edge is reached by a jump host: the NetDialer is an SSH client. Its
// connections have no deadlines.
func TestSSHJumpHost(t *testing.T) {
	nginx := startNginx(t, serveEcho(t))
	plain, edge := nginx.plain, nginx.tls
	jump := outSSH(t)
	for name, f := range map[string]front{"plain": plain, "tls": edge} {
		t.Run(name, func(t *testing.T) {
			d := f.dialer()
			d.NetDialer = jump
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				c, err := d.DialContext(ctx, "tcp", f.address)
				require.NoError(t, err)
				cancel() // it bounds the handshake alone
				require.Error(t, c.SetDeadline(time.Now().Add(patience)), "then the rest would prove nothing")
				require.NoError(t, echo(c, make([]byte, 1<<20)))
				// Not its error: if the far end has closed first, that of an
				// SSH channel is EOF.
				c.Close()
			}
			d.Path = "/elsewhere"
			_, err := d.DialContext(t.Context(), "tcp", f.address)
			require.Equal(t, 404, statusError(t, err).StatusCode)
		})
	}
	t.Run("Unreachable", func(t *testing.T) {
		d := plain.dialer()
		d.NetDialer = jump
		_, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:1") // privileged: nobody listens there by chance
		var refused *ssh.OpenChannelError
		require.ErrorAs(t, err, &refused)
	})
}

// Behind the jump host somebody accepts and says nothing. The dial ends
// nevertheless, and with it the connection to the one who is silent.
func TestSSHJumpHostSilent(t *testing.T) {
	jump := outSSH(t)
	dir := t.TempDir()
	writeCertificate(t, dir)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	require.NoError(t, err)
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
				outTimeout(t, err)
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
				outTimeout(t, err)
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
				// Known for certain here alone: a time may end earlier.
				require.ErrorContains(t, err, stage)
			},
		},
	} {
		for _, layer := range []string{"upgrade", "tls", "upgrade over tls", "tunnel tls"} {
			t.Run(test.name+"/"+layer, func(t *testing.T) {
				l := listenTCP(t)
				d := &preflight.PreflightDialer{NetDialer: jump, HandshakeTimeout: test.timeout}
				stage := "wait for the 101"
				switch layer {
				case "tls":
					d.TLSConfig, stage = &tls.Config{InsecureSkipVerify: true}, "TLS handshake"
				case "upgrade over tls":
					d.TLSConfig = &tls.Config{InsecureSkipVerify: true}
					l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})
				case "tunnel tls":
					d.TunnelTLSConfig, stage = &tls.Config{InsecureSkipVerify: true}, "TLS handshake in the tunnel"
				}
				heard, read := make(chan struct{}, 1), make(chan error, 1)
				go func() { read <- outSilent(l, layer == "tunnel tls", heard) }()
				_, err := outWithin(t, func() (net.Conn, error) {
					return d.DialContext(test.context(t, heard), "tcp", l.Addr().String())
				})
				test.check(t, err, stage)
				require.NoError(t, receive(t, read))
			})
		}
	}
}

// outSilent accepts one connection, answers an upgrade request on it or not even
// that, and reads to its end. heard is closed when there is something that will
// not be answered.
func outSilent(l net.Listener, upgrade bool, heard chan<- struct{}) error {
	defer close(heard) // at the latest
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	if upgrade {
		if _, err := http.ReadRequest(r); err != nil {
			return outEnd(err)
		}
		if _, err := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Tunnel: tls\r\n\r\n"); err != nil {
			return err
		}
	}
	if _, err := r.Peek(1); err != nil {
		return outEnd(err)
	}
	heard <- struct{}{}
	_, err = io.Copy(io.Discard, r)
	return outEnd(err)
}

// outEnd is nil for an end that comes early: the dial may have been ended before
// it has sent anything, and it says no goodbye when it gives up.
func outEnd(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

func outTimeout(t *testing.T, err error) {
	t.Helper()
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
}

// outWithin is what dial returns, in good time.
func outWithin(t *testing.T, dial func() (net.Conn, error)) (net.Conn, error) {
	t.Helper()
	var c net.Conn
	done := make(chan error, 1)
	go func() {
		var err error
		c, err = dial()
		done <- err
	}()
	err := receive(t, done)
	return c, err
}
