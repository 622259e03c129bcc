package preflight

import (
	"bytes"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

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
	// Status is the code with the reason phrase, such as "403 Forbidden". The
	// phrase is as received, or the standard one if there was none. It may contain
	// anything that the peer sent. Error, whose text may go to a log, does not show
	// it unchecked. An answer that Authorize chooses always carries the standard
	// phrase, because proxies replace other phrases.
	Status string
	// Header holds the fields of the answer. Fields from Authorize that frame the
	// message are dropped.
	Header http.Header
	// Body is the body of the answer. A received body is cut to 4 KiB, and is read
	// for at most a second. A body from Authorize is sent in full; if it is empty,
	// the standard reason phrase is sent. Error does not include it.
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
	echo  bool   // the phrase may repeat a secret of the request

	otherToken bool // a 101 with a wrong token, or without one
}

// Error names the peer, its answer and the likely cause: the setting, of this library
// or of a proxy, that most often leads to such an answer. It shows the status, and the
// scheme and the host of a Location. Neither is shown if it repeats a part of the
// request's query or of a field value; the standard phrase then replaces the status
// phrase. Control and format characters are escaped.
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

// Temporary reports whether the same request may succeed later: after 408, 425, 429,
// 502, 503 and 504, and after a 500 of a forward proxy, which tinyproxy answers when it
// cannot reach the host. A 500 of the server is a fault of its own, such as a
// middleware that hides http.Hijacker or a panic in Authorize. All other statuses need a
// change of the configuration or of the credentials.
func (e *StatusError) Temporary() bool {
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

// reasonCauses say what the codes of the listener mean, where that is more than its status.
var reasonCauses = map[string]string{
	wire.CodeNoUpgrade:    "the server saw no upgrade, although the request reached the listener, so a proxy on the way removes Upgrade (nginx wants `proxy_http_version 1.1` and `proxy_set_header` for Upgrade and Connection; Apache `upgrade=tcp`; others in the README)",
	wire.CodeNoConnection: "the request reached the listener, but a proxy on the way removes upgrade from Connection (nginx wants `proxy_http_version 1.1` and `proxy_set_header` for Upgrade and Connection; AWS ALB always does it)",
	wire.CodeCarrier:      "the listener does not serve this carrier (PreflightListener.Carriers)",
	wire.CodeProtocol:     "the listener does not serve this protocol (PreflightListener.Protocols)",
	wire.CodeSubprotocol:  "the request reached the listener, but a proxy on the way removes Sec-WebSocket-Protocol",
	wire.CodeTunnelTLS:    "the listener offers no TLS inside the tunnel, which TunnelTLSConfig asks for (PreflightListener.TLSConfig)",
	wire.CodeOrigin:       "the request has an Origin that the listener does not allow (PreflightListener.AllowedOrigins)",
}

// likelyCause names the setting that most often leads to an answer. The README has a
// table of these.
func likelyCause(e *StatusError) string {
	if e.ForwardProxy {
		return connectCause(e)
	}
	if cause, ok := reasonCauses[e.Reason]; ok {
		return cause
	}
	status := e.StatusCode
	switch {
	case status < 300 || status == http.StatusUpgradeRequired:
		return "the server saw no upgrade, so a proxy on the way removes Upgrade (nginx wants `proxy_http_version 1.1` and `proxy_set_header` for Upgrade and Connection; Apache `upgrade=tcp`; h2o and cloud load balancers may pass websocket alone; others in the README), or the path leads to something else"
	case status < 400:
		return "redirects are not followed; dial what Location names"
	case status == http.StatusUnauthorized:
		return "the credentials in Header or GetHeader are missing, wrong or expired"
	case status == http.StatusForbidden:
		return "the credentials do not open this path, or a proxy forbids the upgrade (Envoy and Istio without `upgrade_configs: [{upgrade_type: tcp}]`)"
	case status == http.StatusProxyAuthRequired:
		return "a proxy wants credentials, but it is no forward proxy set by Proxy; it should answer 401"
	case status == http.StatusNotFound:
		return "no route for this path on the proxy or the server; check Path and Host"
	case status == http.StatusBadRequest && speaksTLS(e.Body):
		return "the port speaks TLS; " + stageUpgrade.tls
	case status == http.StatusBadRequest:
		return "a proxy takes the head for malformed or too large (7 KiB pass everywhere), or it knows no upgrade but websocket (Apache Traffic Server, some load balancers)"
	case status == http.StatusRequestURITooLong, status == http.StatusRequestHeaderFieldsTooLarge:
		return "the head of the request is larger than a proxy or the server allows (7 KiB pass everywhere); shorten Header or Path, or raise their limit"
	case status == http.StatusMethodNotAllowed, status == http.StatusNotImplemented:
		return "a proxy or the server does not know upgrades on this path"
	case status == http.StatusMisdirectedRequest:
		return "the proxy serves another host on this address; check Host and TLSConfig.ServerName"
	case status == http.StatusTooManyRequests:
		return "too many connections or attempts; try again later"
	case status == http.StatusBadGateway:
		return "the server behind the proxy is unavailable: it is down, refuses connections, or has closed this one without an answer, as one does that gets a PROXY header it does not expect (TrustedProxies); try again later"
	case status == http.StatusServiceUnavailable:
		return "the server behind the proxy is unavailable: down, full or shutting down; try again later"
	case status == http.StatusGatewayTimeout:
		return "the server behind the proxy is unavailable, or did not answer in the proxy's time; try again later"
	case status == http.StatusInternalServerError:
		return "the server or the proxy has a fault of its own, which its log explains: a middleware in front of the listener that hides http.Hijacker, a panic in Authorize, or a proxy that takes the server behind it for unavailable (lighttpd)"
	case status >= 500:
		return "the proxy failed, or the server behind it is unavailable"
	}
	return "the upgrade was refused"
}

// connectCause is likelyCause for a forward proxy.
func connectCause(e *StatusError) string {
	switch status := e.StatusCode; {
	case status == http.StatusBadRequest && speaksTLS(e.Body):
		return "its port speaks TLS; " + stageConnect.tls
	case status == http.StatusProxyAuthRequired, status == http.StatusUnauthorized:
		return "it wants credentials, or others: put them into the URL that Proxy returns, or Proxy-Authorization into ProxyHeader or GetHeader"
	case status == http.StatusForbidden:
		return "it does not allow CONNECT to this host and port (Squid: SSL_ports and http_access; tinyproxy: ConnectPort)"
	case status == http.StatusBadRequest, status == http.StatusMethodNotAllowed, status == http.StatusNotImplemented, status == http.StatusNotFound:
		return "it is no forward proxy, or knows no CONNECT"
	case status == http.StatusTooManyRequests:
		return "too many connections; try again later"
	case status >= 500:
		return "it cannot resolve or reach the host that was dialed"
	}
	return "it refused the CONNECT"
}

// location returns the scheme and the host of a Location. The rest may hold secrets. So
// may these two if they repeat what was sent.
func location(h http.Header, sent []byte) string {
	u, err := url.Parse(h.Get("Location"))
	if err != nil || u.Host == "" || echoes(u.Scheme, sent) || echoes(u.Host, sent) {
		return ""
	}
	return ", " + (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
}

// speaksTLS recognises how nginx, Apache and Go answer plain HTTP on a TLS port.
func speaksTLS(body []byte) bool {
	body = bytes.ToLower(body)
	for _, phrase := range []string{"plain http", "http request to an https"} {
		if bytes.Contains(body, []byte(phrase)) {
			return true
		}
	}
	return false
}
