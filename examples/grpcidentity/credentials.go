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

// userKey is the key of the user in the context of an upgrade request.
type userKey struct{}

// authorize returns a function for PreflightListener.Authorize. It looks up the user of a
// bearer token, and passes the name on in the context of the request.
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
	credentials.CommonAuthInfo // from the underlying credentials
	name                       string
}

// AuthType returns the kind of AuthInfo.
func (user) AuthType() string { return "preflight" }

// userOf returns the user of a call. Handlers use it.
func userOf(ctx context.Context) (name string, ok bool) {
	client, ok := peer.FromContext(ctx)
	if !ok {
		return "", false
	}
	u, ok := client.AuthInfo.(user)
	return u.name, ok
}

// withUser adds the user that Authorize has found to other credentials of the server:
// insecure ones, or TLS inside the tunnel.
type withUser struct {
	credentials.TransportCredentials
}

// ServerHandshake is called with each connection that the listener returns. An error closes
// the connection.
func (c withUser) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	tunnel, ok := raw.(*preflight.Conn)
	if !ok || tunnel.Request() == nil { // a plain connection, with AllowPlain
		return nil, nil, errors.New("the client has not come by preflight")
	}
	var u user
	if u.name, ok = tunnel.Request().Context().Value(userKey{}).(string); !ok {
		return nil, nil, errors.New("the client is not authenticated: the listener has no Authorize")
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

// Clone returns a copy of the credentials.
func (c withUser) Clone() credentials.TransportCredentials {
	return withUser{c.TransportCredentials.Clone()}
}
