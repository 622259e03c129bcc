package interop

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// A pool of MySQL connections. Before a connection is used again, the driver
// looks by a read past the connection's own Read whether the server has closed
// it: over TLS that would eat or report what belongs to TLS, so a tunnel does not
// offer it. One connection must do for all of what follows.
func TestMySQL(t *testing.T) {
	for _, route := range outRoutes(t, outStartMariaDB(t)) {
		t.Run(route.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			counter := &outCounter{outRoute: route}
			const network = "preflight"
			mysql.RegisterDialContext(network, func(ctx context.Context, address string) (net.Conn, error) {
				return counter.dial(ctx)
			})
			defer mysql.DeregisterDialContext(network)
			config := mysql.NewConfig()
			config.User, config.Passwd, config.Net, config.Addr = "jane", "secret", network, "db.example"
			config.Logger = new(mysql.NopLogger) // of the connections that are cut
			connector, err := mysql.NewConnector(config)
			require.NoError(t, err)
			db := sql.OpenDB(connector)
			defer db.Close()
			db.SetMaxOpenConns(1)
			db.SetMaxIdleConns(1)
			db.SetConnMaxIdleTime(0)
			db.SetConnMaxLifetime(0)

			id := func() (id int) {
				t.Helper()
				require.NoError(t, db.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&id))
				return id
			}
			first := id()
			for i := range 100 { // the connection is idle in the pool after each
				var n int
				require.NoError(t, db.QueryRowContext(ctx, "SELECT ? + 1", i).Scan(&n))
				require.Equal(t, i+1, n)
				require.Equal(t, 1, db.Stats().Idle)
			}
			// Rows that are larger than all buffers, both ways, and then more.
			const size = 1 << 20
			sent := bytes.Repeat([]byte("0123456789abcdef"), size/16)
			for range 3 {
				var got []byte
				require.NoError(t, db.QueryRowContext(ctx, "SELECT ?", sent).Scan(&got))
				require.True(t, bytes.Equal(sent, got))
				require.NoError(t, db.PingContext(ctx))
			}
			require.Equal(t, first, id())
			require.EqualValues(t, 1, counter.dials.Load())
			require.Zero(t, db.Stats().MaxIdleClosed)

			// Several at a time are several connections, which all are kept.
			const conns = 4
			db.SetMaxOpenConns(conns)
			db.SetMaxIdleConns(conns)
			for range 3 {
				outAtOnce(t, conns, func() error {
					var zero int
					return db.QueryRowContext(ctx, "SELECT SLEEP(0.02)").Scan(&zero)
				})
			}
			opened := counter.dials.Load()
			require.LessOrEqual(t, opened, int32(conns))

			// The connections end while they are idle. The driver cannot tell
			// in advance; a query may fail, but the pool gets over it.
			route.cut()
			for failed := 0; ; failed++ {
				if err := db.PingContext(ctx); err == nil {
					break
				}
				require.Less(t, failed, conns, "more failures than there were connections")
			}
			id()
			require.Greater(t, counter.dials.Load(), opened)
		})
	}
}

// A pool of Redis connections, whose probe is of the same kind.
func TestRedis(t *testing.T) {
	for _, route := range outRoutes(t, outStartRedis(t)) {
		t.Run(route.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			counter := &outCounter{outRoute: route}
			client := redis.NewClient(&redis.Options{
				Addr:     "db.example:6379",
				Password: "secret",
				PoolSize: 1,
				Dialer: func(ctx context.Context, _, address string) (net.Conn, error) {
					return counter.dial(ctx)
				},
				ConnMaxIdleTime: -1,
				MaxRetries:      -1, // so that a connection that is lost shows
			})
			defer client.Close()

			id, err := client.ClientID(ctx).Result()
			require.NoError(t, err)
			for i := range 100 {
				key, value := fmt.Sprint(route.name, i), fmt.Sprint("value ", i)
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
			require.EqualValues(t, 1, counter.dials.Load())
			stats := client.PoolStats()
			require.EqualValues(t, 1, stats.Misses)
			require.Zero(t, stats.StaleConns)

			outAtOnce(t, 8, func() error { return client.Ping(ctx).Err() }) // by turns
			require.EqualValues(t, 1, counter.dials.Load())

			route.cut()
			if err := client.Ping(ctx).Err(); err != nil {
				require.NoError(t, client.Ping(ctx).Err())
			}
			require.EqualValues(t, 2, counter.dials.Load())
		})
	}
}

// outAtOnce runs f n times at once.
func outAtOnce(t *testing.T, n int, f func() error) {
	t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f() })
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}
