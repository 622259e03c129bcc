package applications

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

func testNATS(t *testing.T) {
	for _, r := range routes(t, startRelay(t, startNATS(t), serverSpeaksFirst...)) {
		t.Run(r.name, func(t *testing.T) {
			t.Run("Publish", func(t *testing.T) { testNATSPublish(t, r) })
			t.Run("Request", func(t *testing.T) { testNATSRequest(t, r) })
			if r.edge != nil {
				t.Run("Reconnect", func(t *testing.T) { testNATSReconnect(t, r) })
			}
		})
	}
}

// A natsDialer is a route as nats.CustomDialer.
type natsDialer struct{ route }

func (d natsDialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lab.Timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// natsConnect connects a client over r.
func natsConnect(t *testing.T, r route, options ...nats.Option) *nats.Conn {
	t.Helper()
	c, err := nats.Connect("nats://broker.example", append([]nats.Option{
		nats.SetCustomDialer(natsDialer{r}),
		nats.SkipHostLookup(),
		nats.Timeout(lab.Timeout),
	}, options...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// natsExpect requires that text is the next message.
func natsExpect(t *testing.T, s *nats.Subscription, text string) {
	t.Helper()
	message, err := s.NextMsg(lab.Timeout)
	require.NoError(t, err)
	require.Equal(t, text, string(message.Data))
}

// testNATSPublish publishes many messages to a subscriber.
func testNATSPublish(t *testing.T, r route) {
	natsPublish(t, natsConnect(t, r), natsConnect(t, r))
}

func natsPublish(t *testing.T, subscriber, publisher *nats.Conn) {
	s, err := subscriber.SubscribeSync("prices.>")
	require.NoError(t, err)
	require.NoError(t, subscriber.FlushTimeout(lab.Timeout)) // the server has the subscription
	const n = 10_000
	for i := range n {
		require.NoError(t, publisher.Publish("prices.eur", fmt.Append(nil, i)))
	}
	for i := range n {
		natsExpect(t, s, fmt.Sprint(i))
	}
}

// testNATSRequest sends requests to a responder.
func testNATSRequest(t *testing.T, r route) {
	responder, client := natsConnect(t, r), natsConnect(t, r)
	_, err := responder.Subscribe("echo", func(m *nats.Msg) { m.Respond(m.Data) })
	require.NoError(t, err)
	require.NoError(t, responder.FlushTimeout(lab.Timeout))
	for i := range 100 {
		answer, err := client.Request("echo", fmt.Append(nil, i), lab.Timeout)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), string(answer.Data))
	}
}

// testNATSReconnect restarts the proxy. The client must connect again.
func testNATSReconnect(t *testing.T, r route) {
	disconnected, reconnected := make(chan error, 10), make(chan error, 10)
	c := natsConnect(t, r,
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50*time.Millisecond),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { disconnected <- nil }),
		nats.ReconnectHandler(func(*nats.Conn) { reconnected <- nil }))
	s, err := c.SubscribeSync("prices")
	require.NoError(t, err)
	require.NoError(t, c.Publish("prices", []byte("before")))
	natsExpect(t, s, "before")
	r.edge.Restart(t)
	require.NoError(t, lab.Receive(t, disconnected))
	require.NoError(t, lab.Receive(t, reconnected))
	require.NoError(t, c.Publish("prices", []byte("after")))
	natsExpect(t, s, "after")
}
