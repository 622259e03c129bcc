package interop

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
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

// mqttConnect connects by r until the end of the test. The connection is for who
// wants to cut it.
func mqttConnect(t *testing.T, r route, will func(*mqtt.ClientOptions)) (mqtt.Client, net.Conn) {
	t.Helper()
	var conn net.Conn
	options := mqtt.NewClientOptions().
		AddBroker("tcp://broker.example:1883").
		SetProtocolVersion(4).
		SetAutoReconnect(false).
		SetConnectTimeout(patience).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			var err error
			conn, err = r.DialContext(ctx, "tcp", "broker.example:1883")
			return conn, err
		})
	if will != nil {
		will(options)
	}
	c := mqtt.NewClient(options)
	mqttDone(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c, conn
}

func mqttDone(t *testing.T, token mqtt.Token) {
	t.Helper()
	require.True(t, token.WaitTimeout(patience))
	require.NoError(t, token.Error())
}

// mqttSubscribe returns what comes.
func mqttSubscribe(t *testing.T, c mqtt.Client, topic string, qos byte) <-chan string {
	t.Helper()
	messages := make(chan string, 1000)
	mqttDone(t, c.Subscribe(topic, qos, func(_ mqtt.Client, m mqtt.Message) { messages <- string(m.Payload()) }))
	return messages
}

func mqttExpect(t *testing.T, messages <-chan string, text string) {
	t.Helper()
	select {
	case got := <-messages:
		require.Equal(t, text, got)
	case <-time.After(patience):
		require.FailNow(t, "no message")
	}
}

func testMQTTQoS(t *testing.T, r route, qos byte) {
	subscriber, _ := mqttConnect(t, r, nil)
	publisher, _ := mqttConnect(t, r, nil)
	topic := fmt.Sprint(r.name, "/", qos)
	messages := mqttSubscribe(t, subscriber, topic, qos)
	const n = 100
	for i := range n {
		mqttDone(t, publisher.Publish(topic, qos, false, fmt.Sprint(i)))
	}
	for i := range n {
		mqttExpect(t, messages, fmt.Sprint(i))
	}
}

// The broker speaks as soon as there is a subscription.
func testMQTTRetained(t *testing.T, r route) {
	c, _ := mqttConnect(t, r, nil)
	topic := r.name + "/retained"
	mqttDone(t, c.Publish(topic, 1, true, "the last price"))
	late, _ := mqttConnect(t, r, nil)
	mqttExpect(t, mqttSubscribe(t, late, topic, 1), "the last price")
}

// The broker learns that a client is gone without a word.
func testMQTTWill(t *testing.T, r route) {
	heir, _ := mqttConnect(t, r, nil)
	topic := r.name + "/will"
	messages := mqttSubscribe(t, heir, topic, 1)
	_, conn := mqttConnect(t, r, func(o *mqtt.ClientOptions) { o.SetWill(topic, "I am gone", 1, false) })
	require.NoError(t, conn.Close())
	mqttExpect(t, messages, "I am gone")
}
