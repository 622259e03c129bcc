package amps

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// fields sends the token to the guarded server, in each way that a client has.
func (s *setup) fields(t *testing.T, l language) {
	r := s.gate.route()
	ways := [][]string{{rawField}, pair}
	if l.webSocket { // it can send only Basic credentials
		ways = [][]string{{"url=" + r.url(l, user+":"+token+"@")}}
	}
	for _, way := range ways {
		c := converse(t, l, s.arguments(t, l, r, "connect", way...)...)
		c.expect("connected")
		c.finish()
	}
}

// untrusted requires that the clients verify certificates.
func (s *setup) untrusted(t *testing.T, l language) {
	other := t.TempDir()
	lab.WriteCertificate(t, other)
	c := converse(t, l, s.arguments(t, l, s.edge.secure(), "connect", "ca="+filepath.Join(other, "cert.pem"))...)
	c.expect("failed")
	require.Error(t, c.ended())
}

// refused shows the events of a client after 401 and 404, which it does not distinguish.
func (s *setup) refused(t *testing.T, l language) {
	for _, refusal := range []struct {
		status int
		route  route
	}{
		{http.StatusUnauthorized, s.gate.route()},
		{http.StatusUnauthorized, route{"", s.guarded, false, true, false}},
		{http.StatusNotFound, route{"", s.edge.plain, false, true, false}}, // of nginx
		{http.StatusNotFound, route{"", s.open, false, true, true}},        // of the server
	} {
		url := refusal.route.url(l, "")
		require.Equal(t, refusal.status, answer(t, l, url), url)
		c := converse(t, l, s.arguments(t, l, refusal.route, "connect")...)
		for _, want := range l.refused {
			e := c.next()
			got := e.Event
			if got == "failed" {
				got += ": " + e.Error + ": " + e.Message
			}
			require.True(t, strings.HasPrefix(got, want), got)
		}
		require.Error(t, c.ended())
	}
}

// answer returns the status of the answer to the request of a client.
func answer(t *testing.T, l language, url string) (status int) {
	t.Helper()
	_, rest, _ := strings.Cut(url, "://")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+rest, nil)
	require.NoError(t, err)
	req.Header = http.Header{"Connection": {"upgrade"}, "Upgrade": {"tcp"}}
	if l.webSocket {
		req.Header.Set("Upgrade", "websocket")
		req.Header.Set("Sec-WebSocket-Version", "13")
		req.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode
}

// refusedForEver shows that a highly available client retries without end, and prints
// nothing.
func (s *setup) refusedForEver(t *testing.T, l language) {
	r := s.gate.route()
	relay := startRelay(t, r.address)
	r.address = relay.address
	c := converse(t, l, s.arguments(t, l, r, "connect", "ha=true")...)
	for range 3 {
		await(t, "the client dials again", relay.dialed)
	}
	require.Empty(t, c.events)
}

// heartbeat shows that heartbeats keep an otherwise silent tunnel open. At the same time,
// nginx closes two tunnels without heartbeats, one after the other.
func (s *setup) heartbeat(t *testing.T, l language) {
	topic := t.Name()
	peer := joinServer(t, s.open, nil)
	kept := converse(t, l, s.arguments(t, l, s.hasty.route(), "wait", "from="+topic, "heartbeat=1")...)
	kept.expect("connected", "subscribed")
	for i := range 2 {
		silent := converse(t, l, s.arguments(t, l, s.hasty.route(), "wait", "from=nothing", fmt.Sprintf("name=%s/%d", topic, i))...)
		silent.expect("connected", "subscribed", "disconnected")
		silent.finish()
	}
	peer.publish(topic, []string{`{"id":1}`})
	require.Equal(t, `{"id":1}`, kept.expect("message").Data)
	kept.finish()
}
