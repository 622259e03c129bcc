package main

import (
	"errors"
	"net/http"
	"strconv"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

func TestToken(t *testing.T) {
	p := start(t, func(cfg *config) { cfg.user, cfg.token = "ann", "s3cret" })
	bearer := http.Header{"Authorization": {"Bearer s3cret"}}
	basic := http.Header{"Authorization": {"Basic YW5uOnMzY3JldA=="}} // ann:s3cret
	for _, way := range []string{"tunnel", "tunnel over TLS", "tcps", "WebSocket"} {
		for name, header := range map[string]http.Header{"bearer": bearer, "basic": basic} {
			t.Run(way+" "+name, func(t *testing.T) {
				c, err := ways[way](t, p, header)
				require.NoError(t, err)
				t.Cleanup(c.close)
				ack := c.ask(`{"c":"logon","cid":"1","a":"processed","client_name":"c","user_id":"bob"}`)
				require.Equal(t, "auth failure", ack.str("reason"), "the token is ann's")
				ack = c.ask(`{"c":"logon","cid":"1","a":"processed","client_name":"c","user_id":"ann"}`)
				require.Equal(t, "success", ack.str("status"))
			})
		}
		for name, header := range map[string]http.Header{
			"none":       nil,
			"wrong":      {"Authorization": {"Bearer other"}},
			"empty":      {"Authorization": {"Bearer "}},
			"wrong user": {"Authorization": {"Basic Ym9iOnMzY3JldA=="}},
		} {
			t.Run(way+" "+name, func(t *testing.T) {
				_, err := ways[way](t, p, header)
				requireStatus(t, err, http.StatusUnauthorized)
			})
		}
	}
	for _, way := range []string{"plain", "TLS"} { // a plain client cannot send a token
		t.Run(way, func(t *testing.T) {
			c := p.dial(t, way, "")
			c.trySend(`{"c":"logon","cid":"1","a":"processed","client_name":"c"}`) // the connection may be closed already
			_, err := c.receive()
			require.Error(t, err)
		})
	}
}

func requireStatus(t *testing.T, err error, status int) {
	t.Helper()
	var refused *preflight.StatusError
	if errors.As(err, &refused) {
		require.Equal(t, status, refused.StatusCode)
		return
	}
	require.ErrorContains(t, err, strconv.Itoa(status)) // the WebSocket client has no error type for the status
}

func TestPath(t *testing.T) {
	p := start(t, func(cfg *config) { cfg.path = "/other/amps/json" })
	for _, way := range []string{"tunnel", "tunnel over TLS", "tcps", "WebSocket"} {
		_, err := ways[way](t, p, nil)
		requireStatus(t, err, http.StatusNotFound)
	}
	d := &preflight.PreflightDialer{Path: "/other/amps/json"}
	conn, err := d.DialContext(t.Context(), "tcp", p.address)
	require.NoError(t, err)
	conn.Close()
	answer, err := http.Get("http://" + p.address + "/healthz")
	require.NoError(t, err)
	answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	http.DefaultClient.CloseIdleConnections()
}

// TestOtherOriginsAreRefused requires that a page of another site cannot reach the server
// through the browser of a user who has access.
func TestOtherOriginsAreRefused(t *testing.T) {
	p := start(t, nil)
	_, err := ways["WebSocket"](t, p, http.Header{"Origin": {"http://evil.example"}})
	require.ErrorContains(t, err, "403")
	c, err := ways["WebSocket"](t, p, http.Header{"Origin": {"http://" + p.address}})
	require.NoError(t, err)
	c.close()
}
