package preflight

import (
	"encoding/base64"
	"net/url"
	"strings"

	"github.com/preflight-go/preflight/internal/wire"
)

// echoes reports whether text, which a peer wrote, may repeat a secret of the
// request that it was sent: of the query, of a field value, or of what these
// encode. Such a text does not belong in an error. Case does not matter, and any
// four bytes in common are a repetition, because peers cut what they quote; of a
// shorter secret, it is the whole.
func echoes(text string, request []byte) bool {
	const run = 4
	text = strings.ToLower(text)
	for _, secret := range secrets(request) {
		secret = strings.ToLower(secret)
		if len(secret) < run {
			if secret != "" && strings.Contains(text, secret) {
				return true
			}
			continue
		}
		for i := range len(text) - run + 1 {
			if strings.Contains(secret, text[i:i+run]) {
				return true
			}
		}
	}
	return false
}

// secrets are what of a request must not be shown. Host and the fields of the
// exchange are none, nor is the path.
func secrets(request []byte) (all []string) {
	line, fields, _ := strings.Cut(string(request), "\r\n")
	target, _, _ := strings.Cut(line, " HTTP/")
	if _, query, ok := strings.Cut(target, "?"); ok {
		all = append(all, query)
		if decoded, err := url.QueryUnescape(query); err == nil {
			all = append(all, decoded)
		}
	}
	for field := range strings.SplitSeq(fields, "\r\n") {
		name, value, _ := strings.Cut(field, ": ")
		switch name {
		case "Host", "Connection", "Upgrade", wire.TunnelField:
			continue
		}
		all = append(all, value)
		scheme, credentials, _ := strings.Cut(value, " ")
		if strings.EqualFold(scheme, "Basic") { // RFC 7617 §2
			if decoded, err := base64.StdEncoding.DecodeString(credentials); err == nil {
				user, password, _ := strings.Cut(string(decoded), ":")
				all = append(all, user, password)
			}
		}
	}
	return all
}
