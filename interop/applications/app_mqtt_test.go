package applications

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

func testMQTT(t *testing.T) {
	for _, r := range routes(t, startRelay(t, startMosquitto(t))) {
		t.Run(r.name, func(t *testing.T) {
			for qos := range byte(3) {
				t.Run(fmt.Sprint("QoS", qos), func(t *testing.T) { testMQTTQoS(t, r, qos) })
			}
			t.Run("Retained", func(t *testing.T) { testMQTTRetained(t, r) })
			t.Run("Will", func(t *testing.T) { testMQTTWill(t, r) })
		})
	}
}

// mqttConnect connects a client over r. It also returns the connection, for a test that
// closes it. will sets options of the client; nil sets none.
func mqttConnect(t *testing.T, r route, will func(*mqtt.ClientOptions)) (mqtt.Client, net.Conn) {
	t.Helper()
	var conn net.Conn
	options := mqtt.NewClientOptions().
		AddBroker("tcp://broker.example:1883").
		SetProtocolVersion(4).
		SetAutoReconnect(false).
		SetConnectTimeout(lab.Timeout).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), lab.Timeout)
			defer cancel()
			var err error
			conn, err = r.DialContext(ctx, "tcp", "broker.example:1883")
			return conn, err
		})
	if will != nil {
		will(options)
	}
	c := mqtt.NewClient(options)
	mqttWait(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c, conn
}

// mqttWait waits for the success of an operation.
func mqttWait(t *testing.T, token mqtt.Token) {
	t.Helper()
	require.True(t, token.WaitTimeout(lab.Timeout))
	require.NoError(t, token.Error())
}

// mqttSubscribe subscribes to a topic, and returns the messages.
func mqttSubscribe(t *testing.T, c mqtt.Client, topic string, qos byte) <-chan string {
	t.Helper()
	messages := make(chan string, 1000)
	mqttWait(t, c.Subscribe(topic, qos, func(_ mqtt.Client, m mqtt.Message) { messages <- string(m.Payload()) }))
	return messages
}

// mqttExpect requires that text is the next message.
func mqttExpect(t *testing.T, messages <-chan string, text string) {
	t.Helper()
	select {
	case got := <-messages:
		require.Equal(t, text, got)
	case <-time.After(lab.Timeout):
		require.FailNow(t, "no message")
	}
}

// testMQTTQoS publishes messages to a subscriber.
func testMQTTQoS(t *testing.T, r route, qos byte) {
	subscriber, _ := mqttConnect(t, r, nil)
	publisher, _ := mqttConnect(t, r, nil)
	topic := fmt.Sprint(r.name, "/", qos)
	messages := mqttSubscribe(t, subscriber, topic, qos)
	const n = 100
	for i := range n {
		mqttWait(t, publisher.Publish(topic, qos, false, fmt.Sprint(i)))
	}
	for i := range n {
		mqttExpect(t, messages, fmt.Sprint(i))
	}
}

// testMQTTRetained has the broker send a retained message after a subscription.
func testMQTTRetained(t *testing.T, r route) {
	c, _ := mqttConnect(t, r, nil)
	topic := r.name + "/retained"
	mqttWait(t, c.Publish(topic, 1, true, "the last price"))
	subscriber, _ := mqttConnect(t, r, nil)
	mqttExpect(t, mqttSubscribe(t, subscriber, topic, 1), "the last price")
}

// testMQTTWill closes the connection of a client without DISCONNECT. The broker must notice
// it, and publish the will.
func testMQTTWill(t *testing.T, r route) {
	subscriber, _ := mqttConnect(t, r, nil)
	topic := r.name + "/will"
	messages := mqttSubscribe(t, subscriber, topic, 1)
	_, conn := mqttConnect(t, r, func(o *mqtt.ClientOptions) { o.SetWill(topic, "the client has gone", 1, false) })
	require.NoError(t, conn.Close())
	mqttExpect(t, messages, "the client has gone")
}
