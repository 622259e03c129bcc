package interop

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func testRedis(t *testing.T) {
	server := startRedis(t)
	admin, _, _ := openRedis(t, direct(port{address: server}))
	for _, r := range routes(t, startRelay(t, server)) {
		t.Run(r.name, func(t *testing.T) {
			t.Run("Pool", func(t *testing.T) { testRedisPool(t, r, admin) })
			t.Run("Pipeline", func(t *testing.T) { testRedisPipeline(t, r) })
			t.Run("PubSub", func(t *testing.T) { testRedisPubSub(t, r) })
		})
	}
}

// openRedis opens a pool of one connection until the end of the test. It counts
// what is dialed.
func openRedis(t *testing.T, r route) (*redis.Client, context.Context, *atomic.Int32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
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
		MaxRetries:      -1, // so that a connection that is lost shows
	})
	t.Cleanup(func() {
		client.Close()
		cancel()
	})
	return client, ctx, dials
}

// A pool of Redis connections, whose probe is of the same kind as MySQL's.
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
	again, err := client.ClientID(ctx).Result()
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.EqualValues(t, 1, dials.Load())
	stats := client.PoolStats()
	require.EqualValues(t, 1, stats.Misses)
	require.Zero(t, stats.StaleConns)

	atOnce(t, 8, func() error { return client.Ping(ctx).Err() }) // by turns
	require.EqualValues(t, 1, dials.Load())

	// The server ends the connection while it is idle.
	killed, err := admin.ClientKillByFilter(ctx, "ID", fmt.Sprint(id)).Result()
	require.NoError(t, err)
	require.EqualValues(t, 1, killed)
	if err := client.Ping(ctx).Err(); err != nil {
		require.NoError(t, client.Ping(ctx).Err())
	}
	require.EqualValues(t, 2, dials.Load())
}

// Many commands go in one write, and many answers come back.
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

// The server speaks of its own accord.
func testRedisPubSub(t *testing.T, r route) {
	client, ctx, _ := openRedis(t, r)
	topic := r.name + " prices"
	subscription := client.Subscribe(ctx, topic)
	defer subscription.Close()
	_, err := subscription.Receive(ctx)
	require.NoError(t, err)
	for i := range 100 {
		heard, err := client.Publish(ctx, topic, i).Result()
		require.NoError(t, err)
		require.EqualValues(t, 1, heard)
	}
	for i := range 100 {
		message, err := subscription.ReceiveMessage(ctx)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), message.Payload)
	}
}
