package applications

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// TestDriverPgx shows two traps of pgx. It resolves names before it dials. And it cancels a
// query on another connection, to the remote address of the first one, which can be that of
// a forward proxy. A dial function that ignores its address solves both.
func TestDriverPgx(t *testing.T) {
	server := startPostgres(t)
	admin, _ := pgConnect(t, directRoute(service{address: server}), "disable")
	edges := startNamedEdges(t, startRelay(t, server).address)
	var allowed []string
	for _, e := range edges {
		allowed = append(allowed, lab.Port(e.address))
	}
	squid := lab.StartForwardSquid(t, lab.ForwardConfig{AllowedPorts: allowed})
	for _, e := range edges {
		t.Run(e.name, func(t *testing.T) {
			behindProxy := e.dialer()
			behindProxy.Proxy, behindProxy.Host = http.ProxyURL(squid), "localhost"

			t.Run("AsItIs", func(t *testing.T) {
				_, err := pgx.ConnectConfig(t.Context(), pgxConfig(t, e, e.dialer().DialContext))
				requireNotFound(t, err)
			})
			t.Run("AsItIs/Cancel", func(t *testing.T) {
				lost := make(chan error, 1)
				db := pgxOpen(t, pgxConfig(t, e, func(ctx context.Context, network, address string) (net.Conn, error) {
					c, err := behindProxy.DialContext(ctx, network, address)
					if err != nil {
						lost <- err
					}
					return c, err
				}))
				cancelled := pgxCancelled(t, db, admin)
				require.True(t, lab.StatusError(t, lab.Receive(t, lost)).ForwardProxy)
				require.True(t, pgxRuns(t, admin, cancelled), "the query is still running")
				_, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend($1)", cancelled)
				require.NoError(t, err)
			})
			t.Run("AnyAddress/Cancel", func(t *testing.T) {
				db := pgxOpen(t, pgxConfig(t, e, e.dial))
				cancelled := pgxCancelled(t, db, admin)
				lab.WaitUntil(t, "the server has stopped the query", func() bool { return !pgxRuns(t, admin, cancelled) })
			})
			t.Run("AnyAddress/ForwardProxy/Cancel", func(t *testing.T) {
				db := pgxOpen(t, pgxConfig(t, e, func(ctx context.Context, _, _ string) (net.Conn, error) {
					return behindProxy.DialContext(ctx, "tcp", e.address)
				}))
				cancelled := pgxCancelled(t, db, admin)
				lab.WaitUntil(t, "the server has stopped the query", func() bool { return !pgxRuns(t, admin, cancelled) })
			})
		})
	}
}

// pgxConfig returns the configuration of a client that dials the edge by name.
func pgxConfig(t *testing.T, e namedEdge, dial func(ctx context.Context, network, address string) (net.Conn, error)) *pgx.ConnConfig {
	t.Helper()
	config, err := pgx.ParseConfig("postgres://jane:secret@" + e.address + "/postgres?sslmode=disable")
	require.NoError(t, err)
	config.DialFunc = dial
	return config
}

// pgxOpen opens a pool.
func pgxOpen(t *testing.T, config *pgx.ConnConfig) *sql.DB {
	t.Helper()
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() { db.Close() })
	return db
}

// pgxCancelled starts a query that takes an hour, and cancels it when it runs. It returns
// the server process of the query.
func pgxCancelled(t *testing.T, db *sql.DB, admin *pgx.Conn) (pid int) {
	t.Helper()
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.QueryRowContext(t.Context(), "SELECT pg_backend_pid()").Scan(&pid))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		rows, err := conn.QueryContext(ctx, "SELECT pg_sleep(3600)")
		if err == nil {
			for rows.Next() {
			}
			err = errors.Join(rows.Err(), rows.Close())
		}
		ended <- err
	}()
	lab.WaitUntil(t, "the query runs", func() bool { return pgxRuns(t, admin, pid) })
	cancel()
	require.ErrorIs(t, lab.Receive(t, ended), context.Canceled)
	return pid
}

// pgxRuns reports whether a server process is running the query.
func pgxRuns(t *testing.T, admin *pgx.Conn, pid int) (runs bool) {
	t.Helper()
	require.NoError(t, admin.QueryRow(t.Context(),
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND wait_event = 'PgSleep'", pid).Scan(&runs))
	return runs
}
