package check

import (
	"path"
	"slices"
	"strings"
)

// steadyRules are about a path on which only some of the tunnels open.
var steadyRules = []rule{
	{code: "unsteady", when: all(step("repeat"), func(e *evidence) bool { return e.others != "" }), sure: likely,
		hop: "the servers behind {behind}", cause: "some tunnels open, and others get: {others}. {behind} shares the requests among several servers or proxies, and not all of them are right", change: "correct or remove the wrong server: see {groups}",
		others: []string{"a server is starting or stopping", "there are several proxies at the edge, and not all of them have the same configuration"}},
}

// farRules are about what the far end saw, if it stands in place of a server and a tunnel to it
// opens. With serve --echo the listener is the one that is used later, and nothing is wrong.
var farRules = []rule{
	{code: "far-tls", when: all(farWorks, arrived(func(a Arrival) bool { return a.TLS })),
		hop: "{who}", cause: "it speaks TLS to the server: what stood in place of the far end must serve TLS", change: "let the server serve TLS (`preflight serve --tls-cert`, PreflightListener.TLSConfig); or if it is plain: {insecure}"},
	{code: "far-proxy-header", when: all(farWorks, arrived(func(a Arrival) bool { return a.ProxyHeader != "" })),
		hop: "{who}", cause: "it sends a PROXY header, which the server must expect", change: trustProxy},
	{code: "other-route", when: all(farWorks, func(e *evidence) bool {
		return e.farView != nil && !isClean(e.farView.Request.Path) && isClean(e.path())
	}), sure: likely,
		hop: "{way}", cause: "it writes a path that `preflight serve` and many servers refuse, with // or a dot segment", change: cleanPath,
		others: []string{"nothing is wrong: the server accepts such a path"}},
	{code: "server-at-fault", when: farWorks, sure: likely,
		hop: "the server that stands in place of the far end", cause: "the path is right: requests arrive in plain HTTP/1.1, with Upgrade. If a tunnel to the server does not open, the server is at fault: it is down, wants TLS, or is no preflight listener", change: "start the server at the address of the far end, without TLS: `preflight serve --listen ADDR --to SERVER`",
		others: []string{"nothing is wrong any more"}},
}

// farWorks holds if a tunnel to the far end opens, and the far end is not serve --echo.
func farWorks(e *evidence) bool { return e.far != nil && !e.far.Serve && e.works() }

// arrived holds if the far end saw a connection of this kind.
func arrived(kind func(Arrival) bool) func(*evidence) bool {
	return func(e *evidence) bool { return e.far != nil && slices.ContainsFunc(e.far.Arrivals, kind) }
}

const cleanPath = "let the path arrive in its plain form: in nginx both `location` and `proxy_pass` end with a slash, or neither does; in HAProxy see `http-request set-path` and `replace-path`"

// isClean reports whether a path has neither empty nor relative segments.
func isClean(p string) bool {
	return p == "/" || strings.HasPrefix(p, "/") && path.Clean(p) == strings.TrimSuffix(p, "/")
}

// lost holds if the far end got requests without this field, which was sent.
func lost(field string) func(*evidence) bool {
	return func(e *evidence) bool { return e.farView != nil && slices.Contains(e.farView.Removed, field) }
}
