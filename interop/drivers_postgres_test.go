package interop

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
)

// pgx resolves names before it dials. It cancels a query by a connection of its
// own, to the address that the first one leads to: that of a forward proxy, if
// there is one. A dial function that ignores its address repairs both.
func TestDriverPgx(t *testing.T) {
	server := startPostgres(t)
	admin, _ := pgConnect(t, direct(port{address: server}), "disable")
	edges := namedEdges(t, startRelay(t, server).address)
	var allowed []string
	for _, e := range edges {
		allowed = append(allowed, outPort(e.address))
	}
	squid := outStartSquid(t, outConfig{allowed: allowed})
	for _, e := range edges {
		t.Run(e.name, func(t *testing.T) {
			behindProxy := e.dialer()
			behindProxy.Proxy, behindProxy.Host = http.ProxyURL(squid), "localhost"

			t.Run("AsItIs", func(t *testing.T) {
				_, err := pgx.ConnectConfig(t.Context(), pgxConfig(t, e, e.dialer().DialContext))
				missed(t, err)
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
				require.True(t, statusError(t, awaited(t, lost)).ForwardProxy)
				require.True(t, pgxRuns(t, admin, cancelled), "the query runs on")
				_, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend($1)", cancelled)
				require.NoError(t, err)
			})
			t.Run("AnyAddress/Cancel", func(t *testing.T) {
				db := pgxOpen(t, pgxConfig(t, e, e.dial))
				cancelled := pgxCancelled(t, db, admin)
				until(t, "the server stops the query", func() bool { return !pgxRuns(t, admin, cancelled) })
			})
			t.Run("AnyAddress/ForwardProxy/Cancel", func(t *testing.T) {
				db := pgxOpen(t, pgxConfig(t, e, func(ctx context.Context, _, _ string) (net.Conn, error) {
					return behindProxy.DialContext(ctx, "tcp", e.address)
				}))
				cancelled := pgxCancelled(t, db, admin)
				until(t, "the server stops the query", func() bool { return !pgxRuns(t, admin, cancelled) })
			})
		})
	}
}

// pgxConfig is that of a client which knows the edge by its name.
func pgxConfig(t *testing.T, e namedEdge, dial func(ctx context.Context, network, address string) (net.Conn, error)) *pgx.ConnConfig {
	t.Helper()
	config, err := pgx.ParseConfig("postgres://jane:secret@" + e.address + "/postgres?sslmode=disable")
	require.NoError(t, err)
	config.DialFunc = dial
	return config
}

func pgxOpen(t *testing.T, config *pgx.ConnConfig) *sql.DB {
	t.Helper()
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() { db.Close() })
	return db
}

// pgxCancelled begins a query that takes an hour, and cancels it when it runs. It
// returns the process of the server.
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
	until(t, "the query runs", func() bool { return pgxRuns(t, admin, pid) })
	cancel()
	require.ErrorIs(t, receive(t, ended), context.Canceled)
	return pid
}

// pgxRuns reports that a process of the server is at work on the query.
func pgxRuns(t *testing.T, admin *pgx.Conn, pid int) (runs bool) {
	t.Helper()
	require.NoError(t, admin.QueryRow(t.Context(),
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND wait_event = 'PgSleep'", pid).Scan(&runs))
	return runs
}
