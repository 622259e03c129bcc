package main

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/preflight-go/preflight"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// userKey is the key of the user in the Context of an upgrade request.
type userKey struct{}

// authorize returns a function for PreflightListener.Authorize. It finds the user
// of a bearer token, and hands the name on in the Context of the request.
func authorize(users map[string]string) func(*http.Request) (http.Header, error) {
	return func(r *http.Request) (http.Header, error) {
		user, ok := users[r.Header.Get("Authorization")]
		if !ok {
			return nil, &preflight.StatusError{
				StatusCode: http.StatusUnauthorized,
				Header:     http.Header{"WWW-Authenticate": {`Bearer realm="grpc"`}},
			}
		}
		*r = *r.WithContext(context.WithValue(r.Context(), userKey{}, user))
		return nil, nil
	}
}

// A user is the AuthInfo of a connection.
type user struct {
	credentials.CommonAuthInfo // of the credentials below
	name                       string
}

// AuthType names the kind of AuthInfo.
func (user) AuthType() string { return "preflight" }

// userOf is for handlers.
func userOf(ctx context.Context) (name string, ok bool) {
	client, ok := peer.FromContext(ctx)
	if !ok {
		return "", false
	}
	u, ok := client.AuthInfo.(user)
	return u.name, ok
}

// withUser adds, on the server's side, what Authorize has found out to other
// credentials: insecure ones, or TLS inside the tunnel.
type withUser struct {
	credentials.TransportCredentials
}

// ServerHandshake is called with each connection that the listener returns. An
// error closes it.
func (c withUser) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	tunnel, ok := raw.(*preflight.Conn)
	if !ok || tunnel.Request() == nil { // a plain connection, with AllowPlain
		return nil, nil, errors.New("the client has not come by preflight")
	}
	var u user
	if u.name, ok = tunnel.Request().Context().Value(userKey{}).(string); !ok {
		return nil, nil, errors.New("nobody has vetted the client: the listener has no Authorize")
	}
	conn, below, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	if below, ok := below.(interface {
		GetCommonAuthInfo() credentials.CommonAuthInfo
	}); ok {
		u.CommonAuthInfo = below.GetCommonAuthInfo()
	}
	return conn, u, nil
}

// Clone copies the credentials.
func (c withUser) Clone() credentials.TransportCredentials {
	return withUser{c.TransportCredentials.Clone()}
}
