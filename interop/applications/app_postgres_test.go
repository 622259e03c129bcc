package applications

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

func testPostgres(t *testing.T) {
	for _, r := range routes(t, startRelay(t, startPostgres(t))) {
		t.Run(r.name, func(t *testing.T) {
			t.Run("Queries", func(t *testing.T) { testPostgresQueries(t, r) })
			t.Run("Copy", func(t *testing.T) { testPostgresCopy(t, r) })
			t.Run("Notify", func(t *testing.T) { testPostgresNotify(t, r) })
			t.Run("Cancel", func(t *testing.T) { testPostgresCancel(t, r) })
			t.Run("SSLRequire", func(t *testing.T) { testPostgresSSL(t, r) })
		})
	}
}

// pgConnect connects over r.
func pgConnect(t *testing.T, r route, sslmode string) (*pgx.Conn, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	t.Cleanup(cancel)
	config, err := pgx.ParseConfig("postgres://jane:secret@db.example/postgres?sslmode=" + sslmode)
	require.NoError(t, err)
	config.DialFunc = r.DialContext
	// pgx must not resolve the name, which exists nowhere.
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	c, err := pgx.ConnectConfig(ctx, config)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(context.WithoutCancel(ctx)) })
	return c, ctx
}

// testPostgresQueries sends single queries, large values and a batch.
func testPostgresQueries(t *testing.T, r route) {
	c, ctx := pgConnect(t, r, "disable")
	for i := range 50 {
		var n int
		require.NoError(t, c.QueryRow(ctx, "SELECT $1::int + 1", i).Scan(&n))
		require.Equal(t, i+1, n)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var back []byte
	require.NoError(t, c.QueryRow(ctx, "SELECT $1::bytea", large).Scan(&back))
	require.True(t, bytes.Equal(large, back))

	// A batch sends several queries in one write. One of them fails.
	_, err := c.Exec(ctx, "CREATE TEMPORARY TABLE t (n int PRIMARY KEY)")
	require.NoError(t, err)
	var batch pgx.Batch
	for _, n := range []int{1, 2, 1} {
		batch.Queue("INSERT INTO t VALUES ($1)", n)
	}
	var failed *pgconn.PgError
	require.ErrorAs(t, c.SendBatch(ctx, &batch).Close(), &failed)
	require.Equal(t, "23505", failed.Code) // unique_violation
	var left int
	require.NoError(t, c.QueryRow(ctx, "SELECT count(*) FROM t").Scan(&left))
	require.Zero(t, left)
}

// testPostgresCopy copies rows to the server and back.
func testPostgresCopy(t *testing.T, r route) {
	c, ctx := pgConnect(t, r, "disable")
	_, err := c.Exec(ctx, "CREATE TEMPORARY TABLE t (n int, word text)")
	require.NoError(t, err)
	const rows = 20_000
	word := strings.Repeat("word", 50)
	var want bytes.Buffer
	n, err := c.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n", "word"}, pgx.CopyFromSlice(rows, func(i int) ([]any, error) {
		fmt.Fprintf(&want, "%d\t%s\n", i, word)
		return []any{i, word}, nil
	}))
	require.NoError(t, err)
	require.EqualValues(t, rows, n)
	var got bytes.Buffer
	_, err = c.PgConn().CopyTo(ctx, &got, "COPY t TO STDOUT")
	require.NoError(t, err)
	require.True(t, bytes.Equal(want.Bytes(), got.Bytes()))
}

// testPostgresNotify has the server send notifications.
func testPostgresNotify(t *testing.T, r route) {
	listener, ctx := pgConnect(t, r, "disable")
	speaker, _ := pgConnect(t, r, "disable")
	_, err := listener.Exec(ctx, "LISTEN prices")
	require.NoError(t, err)
	for i := range 20 {
		_, err := speaker.Exec(ctx, "SELECT pg_notify('prices', $1)", fmt.Sprint(i))
		require.NoError(t, err)
		notification, err := listener.WaitForNotification(ctx)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), notification.Payload)
	}
}

// testPostgresCancel cancels a query. For that, pgx opens another connection, which uses the
// same route.
func testPostgresCancel(t *testing.T, r route) {
	c, ctx := pgConnect(t, r, "disable")
	other, _ := pgConnect(t, r, "disable")
	ended := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, "SELECT pg_sleep(3600)")
		ended <- err
	}()
	lab.WaitUntil(t, "the query runs", func() bool {
		var running bool
		require.NoError(t, other.QueryRow(ctx,
			"SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1", c.PgConn().PID()).Scan(&running))
		return running
	})
	require.NoError(t, c.PgConn().CancelRequest(ctx))
	var cancelled *pgconn.PgError
	require.ErrorAs(t, lab.Receive(t, ended), &cancelled)
	require.Equal(t, "57014", cancelled.Code) // query_canceled
	require.NoError(t, c.Ping(ctx))
}

// testPostgresSSL uses the server's own TLS, which follows a request in plain text.
func testPostgresSSL(t *testing.T, r route) {
	for sslmode, want := range map[string]bool{"require": true, "disable": false} {
		c, ctx := pgConnect(t, r, sslmode)
		var encrypted bool
		require.NoError(t, c.QueryRow(ctx, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&encrypted))
		require.Equal(t, want, encrypted)
	}
}
