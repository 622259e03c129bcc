package check

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// seen makes a product show itself in the answer to an ordinary request.
func seen(p product) fact {
	a := answerOf(404, "")
	a.Products = []string{string(p)}
	return asks("get", a)
}

// TestDoubt requires that no verdict is certain that a proxy is at fault, unless the answer shows
// that this proxy wrote it.
func TestDoubt(t *testing.T) {
	bearer := func(status int, p product, header ...string) fact {
		return refuses("credentials-refused", status, p, append(header, "Www-Authenticate", "Basic realm=x")...)
	}
	for _, c := range []struct {
		sure  certainty
		other string
		facts []fact
	}{
		{certain, "", []fact{refuses("forbidden", 403, haproxy), first(haproxy), asks("other-path", answerOf(403, haproxy))}},
		{certain, "", []fact{refuses("squid-denied", 403, squid)}},
		{certain, "", []fact{refuses("no-route", 404, envoy), first(envoy), asks("get", answerOf(404, envoy))}},
		{certain, "", []fact{refuses("rbac", 403, envoy), first(envoy)}},
		{likely, "", []fact{refuses("no-route", 404, envoy), first(envoy), asks("get", answerOf(404, "", envoyTime, "1"))}},
		{likely, "suppress_envoy_headers", []fact{refuses("no-listener", 200, ""), first(envoy), asks("get", answerOf(200, ""))}},
		{likely, "`suppress_envoy_headers`", []fact{refuses("no-listener", 200, envoy)}},
		{likely, "another nginx behind", []fact{refuses("no-listener", 200, nginx, file...)}},
		{likely, "another nginx behind", []fact{refuses("no-listener", 200, "", file...), first(nginx)}},
		{likely, "another nginx behind", []fact{refuses("no-route", 404, nginx)}},
		{likely, "", []fact{refuses("no-route", 404, ""), first(nginx)}},
		{likely, "another nginx behind", []fact{refuses("forbidden", 403, nginx), asks("other-path", answerOf(403, nginx))}},
		{likely, "a Caddy before 2.10", []fact{refuses("no-site", 200, caddy)}},
		{certain, "", []fact{refuses("no-site", 200, "", "Via", "1.1 Caddy"), seen(caddy)}},
		{likely, "a Caddy before 2.10", []fact{withScheme("Bearer"), bearer(401, caddy)}},
		{likely, "`basic_auth`", []fact{withScheme("Bearer"), bearer(401, "", "Via", "1.1 Caddy"), seen(caddy)}},
		{likely, "`http-request deny`", []fact{refuses("forbidden", 403, ""), first(haproxy), asks("other-path", answerOf(403, ""))}},
		{likely, "behind Traefik answers so", []fact{refuses("rate-limit", 429, ""), first(traefik)}},
	} {
		v := judge(evidenceOf(c.facts...))
		require.NotNil(t, v)
		assert.Equal(t, c.sure, v.Certainty, "%+v", v)
		assert.Contains(t, strings.Join(v.Else, "\n"), c.other, "%+v", v)
	}
}

// TestWrittenByCaddy knows what Caddy writes from what it passes on.
func TestWrittenByCaddy(t *testing.T) {
	header := func(name, value string) http.Header { return http.Header{name: {value}} }
	require.Equal(t, caddy, author(header("Server", "Caddy"), ""))
	require.Empty(t, author(header("Via", "1.1 Caddy"), ""))
	require.Empty(t, author(http.Header{"Server": {"Caddy"}, "Via": {"1.1 Caddy"}}, ""))
	require.Empty(t, author(http.Header{"Server": {"Caddy", "nginx"}}, ""))
}
