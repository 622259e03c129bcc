package carriers_test

import (
	"net/http"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A web page can open a tunnel only if its origin is listed. The listener checks this before
// it calls Authorize, for every carrier and on every way to the listener.
func TestOrigin(t *testing.T) {
	listed := []string{"https://app.example", "https://*.sub.example:8443", "null"}
	for name, test := range map[string]struct {
		allowed []string
		fields  string
		passes  bool
	}{
		"none":               {nil, "", true},
		"none is listed":     {nil, "Origin: https://app.example\r\n", false},
		"that of the Host":   {nil, "Origin: http://h.example\r\n", false}, // DNS rebinding can lead to this
		"listed":             {listed, "Origin: https://app.example\r\n", true},
		"another scheme":     {listed, "Origin: http://app.example\r\n", false},
		"another port":       {listed, "Origin: https://app.example:8443\r\n", false},
		"in capitals":        {listed, "Origin: https://APP.example\r\n", false},
		"a longer name":      {listed, "Origin: https://app.example.evil\r\n", false},
		"a subdomain":        {listed, "Origin: https://a.b.sub.example:8443\r\n", true},
		"the name itself":    {listed, "Origin: https://sub.example:8443\r\n", false},
		"null":               {listed, "Origin: null\r\n", true},
		"without a value":    {listed, "Origin:\r\n", false},
		"twice":              {listed, "Origin: https://app.example\r\nOrigin: https://app.example\r\n", false},
		"a list":             {listed, "Origin: https://app.example https://app.example\r\n", false},
		"any":                {[]string{"*"}, "Origin: https://evil.example\r\n", true},
		"any but null":       {[]string{"*"}, "Origin: null\r\n", false},
		"any, but malformed": {[]string{"*"}, "Origin: evil\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, all, func(t *testing.T, carrier preflight.Carrier) {
				l := &preflight.PreflightListener{AllowedOrigins: test.allowed, Handler: testkit.ReportHandler}
				l.Authorize = func(*http.Request) (http.Header, error) {
					if !test.passes {
						t.Error("Authorize was called")
					}
					return nil, nil
				}
				accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
				for _, way := range testkit.Ways(t, l) {
					c := way.Dial(t)
					if test.passes {
						p := ask(t, bufferedConn{c}, carrier, test.fields, "", "")
						testkit.Carry(t, "x", p, testkit.NextTunnel(t, accepted))
						c.Close()
						continue
					}
					c.Send(t, requests[carrier]+test.fields+ends)
					a := c.Refused(t, "GET")
					receipt(t, a, "origin", http.StatusForbidden, everyCarrier)
					require.Contains(t, a.Text, "PreflightListener.AllowedOrigins")
					require.NotContains(t, a.Raw, "example", "no value of a field")
				}
				// The check does not apply to requests for Handler.
				c := testkit.DialClient(t, l)
				c.Send(t, "GET /health HTTP/1.1\r\nHost: h\r\n"+test.fields+ends)
				require.Equal(t, http.StatusOK, c.Answer("GET").StatusCode)
				c.Close()
			})
		})
	}
}
