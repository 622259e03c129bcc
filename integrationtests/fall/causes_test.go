package fall_test

import (
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// TestOneCauseForAll: if the first refusal shows a fault that every carrier meets, the text has
// no other cause beside it. A code that comes again is not said again.
func TestOneCauseForAll(t *testing.T) {
	for name, test := range map[string]struct {
		answers map[preflight.Carrier]string
		text    string
	}{
		"RBAC": {map[preflight.Carrier]string{
			upgradeOnly: "HTTP/1.1 403 Forbidden\r\nServer: envoy\r\nContent-Length: 19\r\n\r\nRBAC: access denied",
			webSocket:   "HTTP/1.1 403 Forbidden\r\nServer: envoy\r\nContent-Length: 0\r\n\r\n",
		}, `\[rbac\]; and by carrier websocket: 403 Forbidden$`},
		"another server": {map[preflight.Carrier]string{
			upgradeOnly: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			webSocket:   "HTTP/1.1 599 No\r\nContent-Length: 0\r\n\r\n",
		}, `\[no-listener\]; and by carrier websocket: 599$`},
		"a large head": {map[preflight.Carrier]string{
			upgradeOnly: "HTTP/1.1 400 Bad Request\r\nContent-Length: 34\r\n\r\nRequest Header Or Cookie Too Large",
			webSocket:   "HTTP/1.1 400 Bad Request\r\nContent-Length: 34\r\n\r\nRequest Header Or Cookie Too Large",
		}, `\[head-size\]; and by carrier websocket the same$`},
		"websocket alone": {map[preflight.Carrier]string{
			upgradeOnly: "HTTP/1.1 400 Invalid Upgrade Request\r\nServer: ATS/9.2.9\r\nContent-Length: 0\r\n\r\n",
			webSocket:   "HTTP/1.1 502 Bad Gateway\r\nServer: ATS/9.2.9\r\nContent-Length: 0\r\n\r\n",
		}, `Traffic Server passes no upgrade but websocket \[websocket-only\]; and by carrier websocket: \S+ answered 502 Bad Gateway: Traffic Server cannot reach .+ \[bad-gateway\]$`},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t, func(carrier preflight.Carrier, _ string) string { return test.answers[carrier] })
			_, err := new(preflight.PreflightDialer).Dial("tcp", e.address())
			require.Error(t, err)
			require.Regexp(t, test.text, err.Error())
			require.Equal(t, []preflight.Carrier{upgradeOnly, webSocket}, e.take())
		})
	}
}
