package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"

	"github.com/preflight-go/preflight/cmd/preflight/internal/address"
	"github.com/stretchr/testify/require"
)

// TestClientLeaves ends the request while its server is dialed. That is no fault of the server.
func TestClientLeaves(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	to, err := address.Parse(l.Addr().String())
	require.NoError(t, err)
	var log bytes.Buffer
	s := &server{log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the client has gone"))
	_, err = s.open(ctx, &settings{serveCommand: new(serveCommand)}, route{to: to})
	require.Error(t, err)
	require.Contains(t, log.String(), `level=DEBUG msg="the client has left before its server answered" route=/ error="the client has gone"`)
	require.NotContains(t, log.String(), "WARN")
	require.Zero(t, s.places.Load())
}

// TestFind finds the servers of paths.
func TestFind(t *testing.T) {
	s := &settings{routes: []route{{path: ""}, {path: "/a"}, {path: "/a/b"}}}
	for path, want := range map[string]string{
		"": "", "/": "", "/A": "", "/ab": "", "/a": "/a", "/a/": "/a", "/a/bc": "/a", "/a/b": "/a/b", "/a/b/c": "/a/b",
	} {
		r, ok := s.find(path)
		require.True(t, ok, path)
		require.Equal(t, want, r.path, path)
	}
	for _, path := range []string{"//", "//a", "/a//b", "/a/../b", "/a/.", "*", "a"} {
		_, ok := s.find(path)
		require.False(t, ok, path)
	}
}
