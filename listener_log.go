package preflight

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/preflight-go/preflight/internal/wire"
)

// The reasons why a handshake ended that say more than the code of the refusal. The others
// are these codes, and the values of error.type.
const (
	reasonPlain         = "plain"            // it is no request, and plain connections are refused
	reasonClientHello   = "tls-hello"        // TLS, without TLSConfig
	reasonHTTP2         = "http2-preface"    // HTTP/2 with prior knowledge
	reasonHealthCheck   = "health-check"     // an ordinary request of a known health check
	reasonProbe         = "probe"            // the client said nothing
	reasonDraining      = "draining"         // Shutdown or Close has been called
	reasonFull          = "full"             // MaxPending
	reasonClientAddress = "client-address"   // a trusted proxy sends a malformed ClientAddrHeader
	reasonProxyHeader   = "bad-proxy-header" // a trusted proxy sends a malformed PROXY header
	reasonClientGone    = "client-gone"      // during Authorize
	reasonHijack        = "no-hijack"        // a middleware hides http.Hijacker
	reasonConfig        = "misconfigured"    // see the error of Accept
	reasonPanic         = "panic"            // in Authorize, or in a callback
)

// A plainError is the refusal of a connection that is not HTTP.
type plainError struct{ reason, text string }

func (e *plainError) Error() string { return e.text }

// errPlainFor returns the error for a connection that begins with b.
//
//go:noinline
func errPlainFor(b []byte) error {
	switch plainReason(b) {
	case reasonClientHello:
		return errPlainTLS
	case reasonHTTP2:
		return errPlainHTTP2
	}
	return errPlain
}

// plainReason tells what a plain connection that begins with b most likely wants. It is ""
// if that is not known.
//
//go:noinline
func plainReason(b []byte) string {
	switch m, _ := wire.ClientHello(b); {
	case m == wire.Yes:
		return reasonClientHello
	case bytes.HasPrefix(b, []byte("PRI * ")): // RFC 9113 §3.4
		return reasonHTTP2
	}
	return ""
}

// healthCheckers begin the User-Agent of health checks.
var healthCheckers = []string{"kube-probe/", "ELB-HealthChecker/", "GoogleHC/", "Envoy/HC", "Consul Health", "Edge Health", "HAProxy-Health"}

// isHealthCheck reports whether the head of an ordinary request is that of a health check.
// HAProxy's `option httpchk` sends HTTP/1.0 without Host, which no client does.
func isHealthCheck(head []byte) bool {
	line, _, _ := bytes.Cut(head, []byte("\r\n"))
	host := false
	for name, value := range wire.Header(head) {
		switch {
		case strings.EqualFold(string(name), "Host"):
			host = true
		case strings.EqualFold(string(name), "User-Agent"):
			for _, known := range healthCheckers {
				if bytes.HasPrefix(value, []byte(known)) {
					return true
				}
			}
		}
	}
	return !host && bytes.HasSuffix(line, []byte(" HTTP/1.0"))
}

// refine notes in e, the refusal of an ordinary request, that it is a health check.
func (e *StatusError) refine(head []byte) *StatusError {
	if isHealthCheck(head) {
		e.finer = reasonHealthCheck
	}
	return e
}

// reasonFor returns why a handshake ended with err, in a word of a fixed vocabulary.
func reasonFor(err error) string {
	var plain *plainError
	var at *stageError
	var found *StatusError
	refused, ok := err.(*StatusError) // not one that NetDialer has met
	switch {
	case ok && refused.finer != "":
		return refused.finer
	case ok && refused.found.Code != "":
		return refused.found.Code
	case ok:
		return refused.Reason
	case errors.As(err, &plain):
		return plain.reason
	case errors.As(err, new(probeError)):
		return reasonProbe
	case err == errClosing, errors.Is(err, errAborted):
		return reasonDraining
	case errors.As(err, &at) && at.found.Code != "" && !errors.As(err, &found):
		return at.found.Code
	case at != nil && at.stage == stagePROXY && !ended(err) && !isTimeout(err):
		return reasonProxyHeader
	case at != nil && at.stage == stageAuthorize:
		return reasonClientGone
	}
	return strings.ToLower(strings.Trim(strings.ReplaceAll(errorType(err), "_", "-"), "-"))
}

const stageAuthorize = "authorize"

// errAborted is the end of a handshake by Close.
var errAborted = errors.Join(errClosing, context.Canceled)

// failed reports the end of a handshake with err, unless it was reported before. ctx has
// bounded the handshake.
//
//go:noinline
func (x *exchange) failed(ctx context.Context, p *policy, err error) {
	if _, refused := err.(*StatusError); !refused && err != errPanic && ctx.Err() == context.Canceled {
		err = &stageError{stage: stageOf(err), err: errAborted} // not the deadline that interrupted it
	}
	x.obs.fail(ctx, err)
	if p.logger == nil || x.reported || x.base == nil {
		return
	}
	x.reported = true
	defer contain("a transport") // RemoteAddr, where nobody recovers from a panic any more
	p.log(ctx, err, x.base.RemoteAddr(), x.addr())
}

// log writes the record of a handshake that was refused or failed.
func (p *policy) log(ctx context.Context, err error, peer, client net.Addr) {
	defer contain("PreflightListener.Logger")
	reason := reasonFor(err)
	level := levelOf(err, reason)
	if !p.logger.Enabled(ctx, level) {
		return
	}
	attributes := []slog.Attr{slog.String("reason", reason)}
	message := "handshake failed"
	if refused, ok := err.(*StatusError); ok {
		message = "handshake refused"
		attributes = append(attributes, slog.Int("status", refused.StatusCode))
	} else if errors.As(err, new(*plainError)) || err == errClosing {
		message = "handshake refused"
	} else if stage := stageOf(err); stage != "" {
		attributes = append(attributes, slog.String("stage", stage))
	}
	attributes = append(attributes, slog.String("peer", addrString(peer)))
	if own := addrString(client); own != addrString(peer) {
		attributes = append(attributes, slog.String("client", own))
	}
	p.logger.LogAttrs(ctx, level, message, attributes...)
}

// levelOf chooses the level by who can correct the cause. What anyone can cause by what they send is
// for debugging: otherwise a scan would fill the log.
func levelOf(err error, reason string) slog.Level {
	switch reason {
	case reasonPanic, reasonHijack, reasonConfig, wire.CodeInternal:
		return slog.LevelError
	case reasonFull, "evicted", reasonClientAddress, reasonProxyHeader:
		return slog.LevelWarn
	case wire.CodeAuthorize:
		if refused, ok := err.(*StatusError); ok && refused.StatusCode >= http.StatusInternalServerError {
			return slog.LevelWarn // what Authorize needs has failed
		}
	}
	return slog.LevelDebug
}
