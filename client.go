package preflight

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/preflight-go/preflight/internal/wire"
)

const (
	// maxAnswer bounds all heads of an answer together, the interim ones
	// included; proxies add fields, but not 64 KiB of them.
	maxAnswer  = 64 << 10
	maxInterim = 8
	maxBody    = 4 << 10
	// bodyWait is how long the body of a refusal may take: it explains the
	// error and is not worth the caller's deadline.
	bodyWait = time.Second
)

// request sends the upgrade request and waits for the 101; x.buf then holds what
// followed it. Nothing is sent ahead of the 101 (RFC 9931 §3): Go's ReverseProxy
// and Caddy 2.6 lose early bytes without a word, and a server that refuses the
// upgrade would read them as its next request.
func (x *exchange) request(u *upgrade) (heads, error) {
	// Room for the answer that is to be kept beside the request.
	size := len(u.target) + len(u.host) + len(u.protocol) + 256
	for name, values := range u.header {
		for _, v := range values {
			size += len(name) + len(v) + len(": \r\n")
		}
	}
	b := wire.AppendRequest(make([]byte, 0, size), u.target, u.host, u.protocol, u.header)
	sent := len(b)
	if _, err := x.conn.Write(b); err != nil {
		err = &stageError{"write the upgrade request", err}
		// A proxy may refuse a head that it has not read to its end (400,
		// 431): then the answer, if it arrived, is the better error.
		var refusal *StatusError
		defer x.finishBy(x.soon())()
		if _, _, answer := x.response(); errors.As(answer, &refusal) {
			err = refusal
		}
		return heads{}, err
	}
	r, n, err := x.response()
	if err != nil {
		return heads{}, err
	}
	if err := r.Switched(u.protocol); err != nil {
		return heads{}, x.refused(r, n, err.Rule)
	}
	b = append(b, x.buf[:n]...)
	x.buf = x.buf[n:]
	return heads{b[:sent:sent], b[sent:]}, nil
}

// response reads until it has a 101, whose head are the first n bytes of x.buf.
func (x *exchange) response() (r wire.Response, n int, err error) {
	const stage = "wait for the 101"
	for range maxInterim + 1 {
		if n, err = x.responseHead(); err != nil {
			return r, 0, &stageError{stage, err}
		}
		var broken *wire.Error
		if r, broken = wire.ParseResponse(x.buf[:n]); broken != nil {
			return r, 0, &stageError{stage, fmt.Errorf("the answer is malformed: %w", broken)}
		}
		if r.Status == http.StatusSwitchingProtocols {
			return r, n, nil
		}
		if r.Status >= 200 {
			return r, 0, x.refused(r, n, "")
		}
		// Interim answers may come unasked (RFC 9110 §15.2) and have no body.
		x.buf = x.buf[n:]
		x.consumed += int32(n)
	}
	return r, 0, &stageError{stage, fmt.Errorf("more than %d interim (1xx) answers", maxInterim)}
}

// responseHead reads until x.buf begins with a head, and returns its length.
func (x *exchange) responseHead() (int, error) {
	for scanned := 0; ; {
		if wire.NotHTTP(x.buf) {
			return 0, fmt.Errorf("the answer is not HTTP/1.x, it begins with %q", x.buf[:min(len(x.buf), 32)])
		}
		if n := wire.ResponseEnd(x.buf, scanned); n > 0 {
			return n, nil
		}
		scanned = len(x.buf)
		if int(x.consumed)+len(x.buf) >= maxAnswer {
			return 0, fmt.Errorf("the head of the answer is larger than %d bytes", maxAnswer)
		}
		if err := x.read(maxAnswer); err == io.EOF {
			return 0, errIncomplete
		} else if err != nil {
			return 0, err
		}
	}
}

// refused makes the error of an answer that is not the 101 asked for; its head
// are the first n bytes of x.buf. why is "" where the status says it.
func (x *exchange) refused(r wire.Response, n int, why string) error {
	e := &StatusError{
		StatusCode: r.Status,
		Status:     statusLine(r),
		Header:     newHeader(x.buf[:n]),
		cause:      why,
	}
	if why == "" {
		e.cause = likelyCause(r.Status)
		e.Body = x.body()
	}
	return e
}

// body reads what there is of a refusal's body. Its framing is left to
// net/http; what that cannot read is no explanation either.
func (x *exchange) body() []byte {
	defer x.finishBy(x.soon())()
	r, err := http.ReadResponse(bufio.NewReader(io.MultiReader(bytes.NewReader(x.buf), x.conn)), nil)
	if err != nil {
		return nil
	}
	// Closing the body would read it to its end.
	b, _ := io.ReadAll(io.LimitReader(r.Body, maxBody))
	return b
}

func (x *exchange) soon() time.Time {
	t := time.Now().Add(bodyWait)
	if x.deadline.IsZero() {
		return t
	}
	return earlier(x.deadline, t)
}

// likelyCause names the setting that is most often behind a status.
func likelyCause(status int) string {
	switch {
	case status < 300 || status == http.StatusUpgradeRequired:
		return "the server saw no upgrade, so a proxy on the way removes Upgrade (nginx wants `proxy_http_version 1.1` and `proxy_set_header` for Upgrade and Connection; Apache `upgrade=tcp`; others in the README), or the path leads to something else"
	case status < 400:
		return "redirects are not followed; dial what Location names"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "the credentials in Header do not open this path (Envoy also answers 403 without `upgrade_configs`)"
	case status == http.StatusProxyAuthRequired:
		return "a proxy wants credentials"
	case status == http.StatusNotFound:
		return "no route for this path on the proxy or the server; check Path"
	case status == http.StatusBadRequest, status == http.StatusRequestURITooLong, status == http.StatusRequestHeaderFieldsTooLarge:
		return "the head of the request is malformed or larger than a proxy allows (7 KiB pass everywhere)"
	case status == http.StatusTooManyRequests:
		return "too many connections; try again later"
	case status >= 500:
		return "the server behind the proxy is unavailable; try again later"
	}
	return "the upgrade was refused"
}
