package applications

import (
	"bytes"
	"context"
	"database/sql"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

func testMySQL(t *testing.T) {
	server := startMariaDB(t)
	admin, _ := openMySQL(t, directRoute(service{address: server}))
	for _, r := range routes(t, startRelay(t, server, serverSpeaksFirst...)) {
		t.Run(r.name, func(t *testing.T) {
			t.Run("Rows", func(t *testing.T) { testMySQLRows(t, r) })
			t.Run("Pool", func(t *testing.T) { testMySQLPool(t, r, admin) })
		})
	}
}

// openMySQL opens a pool over r, and counts the dials.
func openMySQL(t *testing.T, r route) (db *sql.DB, dials *atomic.Int32) {
	t.Helper()
	dials = new(atomic.Int32)
	network := t.Name()
	mysql.RegisterDialContext(network, func(ctx context.Context, address string) (net.Conn, error) {
		dials.Add(1)
		return r.DialContext(ctx, "tcp", address)
	})
	config := mysql.NewConfig()
	config.User, config.Passwd, config.Net, config.Addr = "jane", "secret", network, "db.example"
	config.DBName = "app"
	config.Logger = new(mysql.NopLogger) // it would report the connections that the test closes
	connector, err := mysql.NewConnector(config)
	require.NoError(t, err)
	db = sql.OpenDB(connector)
	t.Cleanup(func() {
		db.Close()
		mysql.DeregisterDialContext(network)
	})
	return db, dials
}

// testMySQLRows sends and receives rows that are larger than all buffers, with an error
// between them.
func testMySQLRows(t *testing.T, r route) {
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	db, _ := openMySQL(t, r)
	const size = 1 << 20
	sent := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for range 3 {
		var got []byte
		require.NoError(t, db.QueryRowContext(ctx, "SELECT ?", sent).Scan(&got))
		require.True(t, bytes.Equal(sent, got))
		_, err := db.ExecContext(ctx, "SELECT nothing")
		var unknown *mysql.MySQLError
		require.ErrorAs(t, err, &unknown)
		require.EqualValues(t, 1054, unknown.Number) // unknown column
	}
	rows, err := db.QueryContext(ctx, "SELECT seq FROM seq_1_to_100000")
	require.NoError(t, err)
	defer rows.Close()
	want := 0
	for rows.Next() {
		want++
		var n int
		require.NoError(t, rows.Scan(&n))
		require.Equal(t, want, n)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 100_000, want)
}

// testMySQLPool uses a pool of connections. Before the driver uses a connection again, it
// checks whether the server has closed it. The check reads from the file descriptor, and
// bypasses the connection's own Read. Over TLS it would consume or report bytes of TLS.
// Therefore a tunnel does not offer the file descriptor, and the driver must do without.
func testMySQLPool(t *testing.T, r route, admin *sql.DB) {
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	db, dials := openMySQL(t, r)
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
	for i := range 100 { // after each query, the connection is idle in the pool
		var n int
		require.NoError(t, db.QueryRowContext(ctx, "SELECT ? + 1", i).Scan(&n))
		require.Equal(t, i+1, n)
		require.Equal(t, 1, db.Stats().Idle)
	}
	require.Equal(t, first, id())
	require.EqualValues(t, 1, dials.Load())
	require.Zero(t, db.Stats().MaxIdleClosed)

	// Queries at the same time use several connections, and the pool keeps all of them.
	const conns = 4
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	for range 3 {
		concurrently(t, conns, func() error {
			var zero int
			return db.QueryRowContext(ctx, "SELECT SLEEP(0.02)").Scan(&zero)
		})
	}
	opened := dials.Load()
	require.LessOrEqual(t, opened, int32(conns))

	// The server closes the connections while they are idle. The driver does not notice
	// that. A query may fail, but the pool recovers.
	killMySQL(ctx, t, admin)
	for failed := 0; ; failed++ {
		if err := db.PingContext(ctx); err == nil {
			break
		}
		require.Less(t, failed, conns, "more failures than there were connections")
	}
	id()
	require.Greater(t, dials.Load(), opened)
}

// killMySQL closes all connections of the server except its own.
func killMySQL(ctx context.Context, t *testing.T, admin *sql.DB) {
	t.Helper()
	others := func() (ids []int) {
		rows, err := admin.QueryContext(ctx, "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()")
		require.NoError(t, err)
		defer rows.Close()
		for rows.Next() {
			var id int
			require.NoError(t, rows.Scan(&id))
			ids = append(ids, id)
		}
		require.NoError(t, rows.Err())
		return ids
	}
	for _, id := range others() {
		admin.ExecContext(ctx, "KILL ?", id) // it may be closed already
	}
	lab.WaitUntil(t, "all other connections are closed", func() bool { return len(others()) == 0 })
}

// concurrently runs f n times at once. It requires that all succeed.
func concurrently(t *testing.T, n int, f func() error) {
	t.Helper()
	errs := make([]error, n)
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() { errs[i] = f() })
	}
	running.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}
