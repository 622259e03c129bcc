package preflight

import (
	"net/http"
	"strconv"
	"strings"
)

// A StatusError is an upgrade that was refused with an HTTP answer.
//
// The client's side returns it, wrapped, for any final answer that is not the
// 101 asked for: use [errors.As]. [PreflightListener.Authorize] returns one to
// choose the answer.
type StatusError struct {
	// StatusCode is the status of the answer. Authorize may choose 300 to
	// 599; anything else is answered 500.
	StatusCode int
	// Status is the code with the reason phrase, "403 Forbidden". It is for
	// reading alone: the phrase that Authorize's answer carries is the
	// standard one, because proxies replace others.
	Status string
	// Header holds the fields of the answer. Of those that Authorize
	// returns, the ones that frame the message are dropped.
	Header http.Header
	// Body is the body of the answer: as received, its first 4 KiB at most,
	// read for a second at most; as sent by Authorize, all of it, and the
	// text of the status if there is none. It is part of no error text.
	Body []byte

	what  string // who answered or was answered
	cause string // known, or likely
}

func (e *StatusError) Error() string {
	status := e.Status
	if status == "" {
		status = statusText(e.StatusCode, http.StatusText(e.StatusCode))
	}
	text := "preflight: " + e.what + status
	if e.cause != "" {
		text += ": " + e.cause
	}
	return text
}

// statusText is the code and the reason phrase, as [http.Response] has it.
func statusText(code int, reason string) string {
	return strings.TrimSuffix(strconv.Itoa(code)+" "+reason, " ")
}
