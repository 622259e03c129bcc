package applications

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func testRedis(t *testing.T) {
	server := startRedis(t)
	admin, _, _ := openRedis(t, directRoute(service{address: server}))
	for _, r := range routes(t, startRelay(t, server)) {
		t.Run(r.name, func(t *testing.T) {
			t.Run("Pool", func(t *testing.T) { testRedisPool(t, r, admin) })
			t.Run("Pipeline", func(t *testing.T) { testRedisPipeline(t, r) })
			t.Run("PubSub", func(t *testing.T) { testRedisPubSub(t, r) })
		})
	}
}

// openRedis opens a pool of one connection over r, and counts the dials.
func openRedis(t *testing.T, r route) (*redis.Client, context.Context, *atomic.Int32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	dials := new(atomic.Int32)
	client := redis.NewClient(&redis.Options{
		Addr:     "db.example:6379",
		Password: "secret",
		PoolSize: 1,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			return r.DialContext(ctx, network, address)
		},
		ConnMaxIdleTime: -1,
		MaxRetries:      -1, // a retry would hide a lost connection
	})
	t.Cleanup(func() {
		client.Close()
		cancel()
	})
	return client, ctx, dials
}

// testRedisPool uses a pool of connections. The driver checks idle connections as that of
// MySQL does.
func testRedisPool(t *testing.T, r route, admin *redis.Client) {
	client, ctx, dials := openRedis(t, r)
	id, err := client.ClientID(ctx).Result()
	require.NoError(t, err)
	for i := range 100 {
		key, value := fmt.Sprint(r.name, i), fmt.Sprint("value ", i)
		require.NoError(t, client.Set(ctx, key, value, time.Minute).Err())
		got, err := client.Get(ctx, key).Result()
		require.NoError(t, err)
		require.Equal(t, value, got)
	}
	large := string(bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	for range 3 {
		got, err := client.Echo(ctx, large).Result()
		require.NoError(t, err)
		require.True(t, large == got)
	}
	sameID, err := client.ClientID(ctx).Result()
	require.NoError(t, err)
	require.Equal(t, id, sameID)
	require.EqualValues(t, 1, dials.Load())
	stats := client.PoolStats()
	require.EqualValues(t, 1, stats.Misses)
	require.Zero(t, stats.StaleConns)

	concurrently(t, 8, func() error { return client.Ping(ctx).Err() }) // one after the other, on one connection
	require.EqualValues(t, 1, dials.Load())

	// The server closes the connection while it is idle.
	killed, err := admin.ClientKillByFilter(ctx, "ID", fmt.Sprint(id)).Result()
	require.NoError(t, err)
	require.EqualValues(t, 1, killed)
	if err := client.Ping(ctx).Err(); err != nil {
		require.NoError(t, client.Ping(ctx).Err())
	}
	require.EqualValues(t, 2, dials.Load())
}

// testRedisPipeline sends many commands in one write.
func testRedisPipeline(t *testing.T, r route) {
	client, ctx, dials := openRedis(t, r)
	const n = 10_000
	key := r.name + " counter"
	answers, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for range n {
			p.Incr(ctx, key)
		}
		return nil
	})
	require.NoError(t, err)
	require.Len(t, answers, n)
	for i, answer := range answers {
		require.EqualValues(t, i+1, answer.(*redis.IntCmd).Val())
	}
	require.EqualValues(t, 1, dials.Load())
}

// testRedisPubSub has the server send messages.
func testRedisPubSub(t *testing.T, r route) {
	client, ctx, _ := openRedis(t, r)
	topic := r.name + " prices"
	subscription := client.Subscribe(ctx, topic)
	defer subscription.Close()
	_, err := subscription.Receive(ctx)
	require.NoError(t, err)
	for i := range 100 {
		receivers, err := client.Publish(ctx, topic, i).Result()
		require.NoError(t, err)
		require.EqualValues(t, 1, receivers)
	}
	for i := range 100 {
		message, err := subscription.ReceiveMessage(ctx)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), message.Payload)
	}
}
