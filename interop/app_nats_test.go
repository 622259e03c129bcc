package interop

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

func testNATS(t *testing.T) {
	for _, r := range routes(t, startRelay(t, startNATS(t), speaksFirst...)) {
		t.Run(r.name, func(t *testing.T) {
			t.Run("Publish", func(t *testing.T) { testNATSPublish(t, r) })
			t.Run("Request", func(t *testing.T) { testNATSRequest(t, r) })
			if r.proxy != nil {
				t.Run("Reconnect", func(t *testing.T) { testNATSReconnect(t, r) })
			}
		})
	}
}

// A natsDialer is what nats.go takes for one.
type natsDialer struct{ route }

func (d natsDialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func natsConnect(t *testing.T, r route, options ...nats.Option) *nats.Conn {
	t.Helper()
	c, err := nats.Connect("nats://broker.example", append([]nats.Option{
		nats.SetCustomDialer(natsDialer{r}),
		nats.SkipHostLookup(),
		nats.Timeout(patience),
	}, options...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// natsExpect requires that the next message is text.
func natsExpect(t *testing.T, s *nats.Subscription, text string) {
	t.Helper()
	message, err := s.NextMsg(patience)
	require.NoError(t, err)
	require.Equal(t, text, string(message.Data))
}

func testNATSPublish(t *testing.T, r route) {
	subscriber, publisher := natsConnect(t, r), natsConnect(t, r)
	s, err := subscriber.SubscribeSync("prices.>")
	require.NoError(t, err)
	require.NoError(t, subscriber.FlushTimeout(patience)) // the server knows
	const n = 10_000
	for i := range n {
		require.NoError(t, publisher.Publish("prices.eur", fmt.Append(nil, i)))
	}
	for i := range n {
		natsExpect(t, s, fmt.Sprint(i))
	}
}

func testNATSRequest(t *testing.T, r route) {
	responder, client := natsConnect(t, r), natsConnect(t, r)
	_, err := responder.Subscribe("echo", func(m *nats.Msg) { m.Respond(m.Data) })
	require.NoError(t, err)
	require.NoError(t, responder.FlushTimeout(patience))
	for i := range 100 {
		answer, err := client.Request("echo", fmt.Append(nil, i), patience)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), string(answer.Data))
	}
}

// The proxy is restarted, and the client finds its way back.
func testNATSReconnect(t *testing.T, r route) {
	lost, found := make(chan error, 10), make(chan error, 10)
	c := natsConnect(t, r,
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50*time.Millisecond),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { lost <- nil }),
		nats.ReconnectHandler(func(*nats.Conn) { found <- nil }))
	s, err := c.SubscribeSync("prices")
	require.NoError(t, err)
	require.NoError(t, c.Publish("prices", []byte("before")))
	natsExpect(t, s, "before")
	r.proxy.restart(t)
	require.NoError(t, receive(t, lost))
	require.NoError(t, receive(t, found))
	require.NoError(t, c.Publish("prices", []byte("after")))
	natsExpect(t, s, "after")
}
