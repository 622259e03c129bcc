package preflight

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/preflight-go/preflight/internal/diagnosis"
	"github.com/preflight-go/preflight/internal/wire"
)

// A StatusError is the refusal, by an HTTP answer, of an upgrade or of a CONNECT to a
// forward proxy.
//
// A client returns it for any final answer other than the expected one; use
// [errors.As]. Redirects are not followed, and Header has the Location.
// [PreflightListener.Authorize] returns one to choose the answer.
type StatusError struct {
	// StatusCode is the status of the answer. Authorize may choose 300 to
	// 599; anything else is answered 500.
	StatusCode int
	// Status is the code with the reason phrase, such as "403 Forbidden". The phrase
	// is as received, or the standard one if there was none. It may contain anything
	// that the peer sent. The text of Error, which may go to a log, has the standard
	// phrase instead if the received one repeats a part of the request. An answer
	// that Authorize chooses always carries the standard phrase, because proxies
	// replace other phrases.
	Status string
	// Header holds the fields of the answer. Fields from Authorize that frame the
	// message are dropped.
	Header http.Header
	// Body is the body of the answer. A received body is cut to 4 KiB, and is read
	// for at most a second. A body from Authorize is sent in full; if it is empty,
	// the standard reason phrase is sent, and with 401 and 403 whether the request had
	// Authorization. Error does not include it.
	Body []byte
	// ForwardProxy reports that the forward proxy refused the CONNECT. Otherwise
	// the answer came from the dialed proxy, or from behind it. It is ignored in a
	// StatusError that Authorize returns.
	ForwardProxy bool
	// Reason is the code of the listener's refusal, such as "authorize" or "carrier",
	// from the Preflight-Refusal field of the answer. It is "" if there is no such field,
	// or if its value is not a short word in lower case. Then the answer need not have
	// come from a listener. Any proxy on the way can forge it, so it explains an answer
	// and proves nothing. It is ignored in a StatusError that Authorize returns.
	Reason string

	what  string // who refused, or who was refused
	cause string // the known or likely cause
	finer string // the reason, for telemetry and the log, where it says more than Reason
	found diagnosis.Finding
	echo  bool // the phrase may repeat a secret of the request

	otherToken bool // a 101 with a wrong token, or without one
}

// Error names the peer, its answer, what that shows, and what to change. At its end stands a
// code, by which docs/troubleshooting.md has more. A cause that is only possible is called
// possible. The standard phrase replaces the status phrase if that repeats a part of the
// request's query or of a field value. Control and format characters are escaped. Nothing
// else of the answer is in the text, except the time of Retry-After.
func (e *StatusError) Error() string {
	status := e.Status
	if status == "" || e.echo {
		status = statusText(e.StatusCode, http.StatusText(e.StatusCode))
	}
	const most = 128 // bytes of a phrase that the peer chose
	text := "preflight: " + e.what + printable(status[:min(len(status), most)])
	if e.cause != "" {
		text += ": " + e.cause
	}
	return text
}

// ErrorType returns the status code as text, for OpenTelemetry's error.type.
func (e *StatusError) ErrorType() string { return strconv.Itoa(e.StatusCode) }

// Temporary reports whether the same request may succeed later. It is true only where
// waiting can help: after 408, 425, 429, 502, 503 and 504, and after a 500 by which
// tinyproxy or lighttpd report an outage. It is false for such a status if the answer shows
// a fault of the configuration. All other answers need a change of the configuration or of
// the credentials.
func (e *StatusError) Temporary() bool {
	if e.found.Code != "" {
		return e.found.Temporary
	}
	switch e.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case http.StatusInternalServerError:
		return e.ForwardProxy
	}
	return false
}

// RetryAfter returns how long to wait from now, according to the Retry-After field of
// the answer (seconds or a date, RFC 9110 §10.2.3). It is 0 for a date that has passed.
// RetryAfter reports false if the field is missing or malformed.
func (e *StatusError) RetryAfter() (time.Duration, bool) {
	values := e.Header.Values("Retry-After")
	if len(values) != 1 {
		return 0, false
	}
	value := strings.Trim(values[0], " \t")
	if value != "" && strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(math.MaxInt64/time.Second) {
			return math.MaxInt64, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return max(time.Until(date), 0), true
}

// statusText joins the code and the reason phrase, as [http.Response] does.
func statusText(code int, reason string) string {
	return strings.TrimSuffix(strconv.Itoa(code)+" "+reason, " ")
}

// reasonOf returns the code of the listener in an answer.
func reasonOf(h http.Header) string {
	const most = 32 // bytes
	values := h[wire.RefusalField]
	if len(values) != 1 || len(values[0]) > most {
		return ""
	}
	for _, c := range []byte(values[0]) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return ""
		}
	}
	return values[0]
}

// diagnose says in e what the answer shows. known is what is known beside it. broken is the
// rule that a 101 breaks.
func (e *StatusError) diagnose(broken *wire.Error, known diagnosis.Evidence) {
	known.Status, known.Receipt, known.Header, known.Body = e.StatusCode, e.Reason, e.Header, e.Body
	_, known.Phrase, _ = strings.Cut(e.Status, " ")
	known.Wait, _ = e.RetryAfter()
	if broken != nil {
		known.Broken, known.Receipt = broken.Code, "" // a 101 is no refusal
	}
	e.found = diagnosis.Of(&known)
	e.cause = e.found.Text
	if broken != nil {
		e.cause = broken.Rule + ": " + e.cause
	}
}
