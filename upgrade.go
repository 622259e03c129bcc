package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/preflight-go/preflight/internal/wire"
)

const (
	defaultTimeout = 10 * time.Second
	defaultToken   = "tcp"
	// AMPS's clients ask for tcps where they speak TLS to the proxy. It is
	// another name for tcp and says nothing about TLS inside the tunnel.
	secureToken = "tcps"
)

// errIncomplete is the cause of a bare EOF in a handshake.
var errIncomplete = fmt.Errorf("the connection ended before the answer, so the proxy or the server behind it is unavailable: %w", io.ErrUnexpectedEOF)

// Client performs the upgrade on c, as a [PreflightDialer] does on the
// connection it has dialed. It is for composition: c may be anything.
//
// Of req it sends the target (URL), the Host, the Header and the token that
// Header holds as Upgrade ("tcp" without one; "websocket" is an error). Method
// must be GET or "", there can be no Body, and the fields that
// PreflightDialer.Header may not hold are errors here too, before anything is
// sent. Client does not ask for TLS inside the tunnel; [crypto/tls.Client] over
// the returned Conn needs no consent of the listener. req becomes [Conn.Request]
// and must not be modified afterwards; its own Context is not used.
//
// The handshake ends with ctx, or after 10 seconds. Once Client has returned,
// ctx has no effect on the connection. A refusal is a [*StatusError]. On error
// the caller closes c, which can be used for nothing else.
func Client(ctx context.Context, c net.Conn, req *http.Request) (*Conn, error) {
	u, err := upgradeOf(req)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	h, leftover, err := u.do(ctx, c, time.Now().Add(defaultTimeout), nil)
	if err != nil {
		return nil, err
	}
	conn := newConn(c, nil, h, leftover, nil)
	conn.req.Store(req)
	return conn, nil
}

// Server performs the server's part on c, as the zero [PreflightListener] does
// for each connection it accepts: an upgrade request is answered 101, any other
// HTTP request is refused, and a connection that speaks something else is
// handed on as it is, with a nil [Conn.Request].
//
// The handshake ends with ctx, or after 10 seconds: who has sent nothing, or
// not yet a whole line, by then speaks no HTTP. Once Server has returned, ctx has no effect on
// the connection. A refusal, which has been sent to the client, is a
// [*StatusError]. On error the caller closes c.
func Server(ctx context.Context, c net.Conn) (*Conn, error) {
	x := newExchange(c)
	if err := x.begin(ctx, time.Now().Add(defaultTimeout)); err != nil {
		x.free()
		return nil, opError("preflight", c, err)
	}
	h, err := x.serve(&zeroPolicy, nil)
	if ended := x.end(err); ended != nil {
		x.free()
		return nil, failure(c, ended, "refused %s with ")
	}
	conn := h.conn(c, nil, nil)
	x.free()
	return conn, nil
}

// An upgrade is a validated upgrade request.
type upgrade struct {
	target, host, protocol string
	tunnelTLS              bool // TLS inside the tunnel is asked for
	header                 http.Header
}

func (u *upgrade) check() error {
	if !wire.ValidTarget(u.target) {
		path, _, _ := strings.Cut(u.target, "?") // a query may hold a secret
		return fmt.Errorf("the path %q and its query must begin with \"/\", be percent-encoded where RFC 3986 wants it, and have no fragment", path)
	}
	if !wire.ValidHost(u.host) {
		host := u.host[strings.LastIndex(u.host, "@")+1:] // before it stands a password
		return fmt.Errorf("the host %q is not valid in a Host field: it must be a name or an address, with or without a port", host)
	}
	if err := checkProtocol(u.protocol); err != nil {
		return err
	}
	return checkHeader(u.header, reserved)
}

// checkProtocol reports why a token cannot be that of a tunnel.
func checkProtocol(token string) error {
	if !wire.ValidProtocol(token) {
		return fmt.Errorf("the protocol %q is not a token that Upgrade can hold", token)
	}
	if name, _, _ := strings.Cut(token, "/"); strings.EqualFold(name, "websocket") {
		return fmt.Errorf("the protocol %q is that of WebSocket, whose bytes are frames; a tunnel of raw bytes needs another token, such as tcp", token)
	}
	return nil
}

// upgradeOf reads an upgrade off the request given to Client.
func upgradeOf(req *http.Request) (*upgrade, error) {
	switch {
	case req == nil || req.URL == nil:
		return nil, errors.New("the request has no URL")
	case req.Method != "" && req.Method != http.MethodGet:
		return nil, fmt.Errorf("the method of an upgrade request is GET, not %q", req.Method)
	case req.Body != nil && req.Body != http.NoBody || req.ContentLength > 0 || len(req.TransferEncoding) > 0 || len(req.Trailer) > 0:
		return nil, errors.New("an upgrade request has no body")
	}
	u := &upgrade{target: req.URL.RequestURI(), host: req.Host, protocol: defaultToken, header: req.Header}
	if u.host == "" {
		u.host = req.URL.Host
	}
	u.host = asciiHost(u.host)
	tokens, connection := req.Header.Values("Upgrade"), req.Header.Values("Connection")
	if len(tokens) > 1 || len(connection) > 1 || len(connection) == 1 && !strings.EqualFold(connection[0], "upgrade") {
		return nil, errors.New("the request may hold one Upgrade field with one token, and no Connection but Upgrade")
	}
	if len(tokens) == 1 {
		u.protocol = tokens[0]
	}
	if len(tokens)+len(connection) > 0 {
		u.header = req.Header.Clone()
		u.header.Del("Upgrade")
		u.header.Del("Connection")
	}
	return u, u.check()
}

// do performs the client's part on c until deadline, which may be zero. rest is what
// has arrived behind the answer.
func (u *upgrade) do(ctx context.Context, c net.Conn, deadline time.Time, obs *observation) (h heads, leftover []byte, err error) {
	x := newExchange(c)
	x.obs = obs
	if err := x.begin(ctx, deadline); err != nil {
		x.free()
		return h, nil, opError("preflight", c, err)
	}
	h, err = x.request(u)
	err = x.end(err)
	leftover = bytes.Clone(x.buf)
	x.free()
	if err != nil {
		return h, nil, failure(c, err, "%s answered ")
	}
	return h, leftover, nil
}

// failure is the error of a handshake with the peer of c; what says how a
// refusal came about.
func failure(c net.Conn, err error, what string) error {
	if e, ok := err.(*StatusError); ok {
		e.what = fmt.Sprintf(what, addrString(c.RemoteAddr()))
		return e
	}
	return opError("preflight", c, err)
}

// printable is s with escapes in place of what a terminal may obey or hide:
// controls, and format characters such as those that change the direction of
// text. A peer may put them into the names of its certificate, for one.
func printable(s string) string {
	odd := func(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }
	if strings.IndexFunc(s, odd) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if odd(r) {
			quoted := strconv.Quote(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// A stageError says what a handshake was doing when it failed.
type stageError struct {
	stage string
	err   error
}

func (e *stageError) Error() string { return e.stage + ": " + printable(e.err.Error()) }
func (e *stageError) Unwrap() error { return e.err }

// Timeout makes net.OpError, which looks no further than its Err, report one.
func (e *stageError) Timeout() bool { return isTimeout(e.err) }

// Temporary is for net.OpError too: an end without an answer is what a proxy, or
// the server behind it, does that is unavailable for the moment.
func (e *stageError) Temporary() bool {
	return e.Timeout() || errors.Is(e.err, io.ErrUnexpectedEOF) || errors.Is(e.err, syscall.ECONNRESET) || errors.Is(e.err, syscall.EPIPE)
}
