package amps

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fields shows the token to the guarded server, in each way that there is.
func (b *lab) fields(t *testing.T, l language) {
	r := b.gate.road()
	ways := [][]string{{rawField}, pair}
	if l.webSocket { // it can make Basic credentials alone
		ways = [][]string{{"url=" + r.url(l, user+":"+token+"@")}}
	}
	for _, way := range ways {
		c := converse(t, l, b.arguments(t, l, r, "connect", way...)...)
		c.expect("connected")
		c.finish()
	}
}

// untrusted shows that the clients verify certificates, as they were told to.
func (b *lab) untrusted(t *testing.T, l language) {
	other := t.TempDir()
	writeCertificate(t, other)
	c := converse(t, l, b.arguments(t, l, b.edge.secure(), "connect", "ca="+filepath.Join(other, "cert.pem"))...)
	c.expect("failed")
	require.Error(t, c.ended())
}

// refused shows what a client makes of 401 and of 404: it does not tell them apart.
func (b *lab) refused(t *testing.T, l language) {
	for _, refusal := range []struct {
		status int
		road   road
	}{
		{http.StatusUnauthorized, b.gate.road()},
		{http.StatusUnauthorized, road{"", b.guarded, false, true, false}},
		{http.StatusNotFound, road{"", b.edge.plain, false, true, false}}, // of nginx
		{http.StatusNotFound, road{"", b.open, false, true, true}},        // of the server
	} {
		url := refusal.road.url(l, "")
		require.Equal(t, refusal.status, answer(t, l, url), url)
		c := converse(t, l, b.arguments(t, l, refusal.road, "connect")...)
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

// answer is the status that the client's request is answered with.
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

// refusedForEver shows that a highly available client tries again, and again, and
// says nothing.
func (b *lab) refusedForEver(t *testing.T, l language) {
	r := b.gate.road()
	relay := startRelay(t, r.address)
	r.address = relay.address
	c := converse(t, l, b.arguments(t, l, r, "connect", "ha=true")...)
	for range 3 {
		await(t, "the client tries again", relay.dialed)
	}
	require.Empty(t, c.events)
}

// heartbeat keeps a tunnel that is silent otherwise. Two tunnels without it end
// meanwhile, one after the other, because nginx takes them for dead.
func (b *lab) heartbeat(t *testing.T, l language) {
	topic := t.Name()
	peer := joinServer(t, b.open, nil)
	kept := converse(t, l, b.arguments(t, l, b.hasty.road(), "wait", "from="+topic, "heartbeat=1")...)
	kept.expect("connected", "subscribed")
	for i := range 2 {
		silent := converse(t, l, b.arguments(t, l, b.hasty.road(), "wait", "from=nothing", fmt.Sprintf("name=%s/%d", topic, i))...)
		silent.expect("connected", "subscribed", "disconnected")
		silent.finish()
	}
	peer.publish(topic, []string{`{"id":1}`})
	require.Equal(t, `{"id":1}`, kept.expect("message").Data)
	kept.finish()
}
