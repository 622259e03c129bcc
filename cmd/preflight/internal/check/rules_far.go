package check

import "slices"

// farRules are about what the far end saw, if it stands in place of a server and a tunnel to it
// opens. With serve --echo the listener is the one that is used later, and nothing is wrong.
var farRules = []rule{
	{code: "far-tls", when: all(farWorks, arrived(func(a Arrival) bool { return a.TLS })),
		hop: "{who}", cause: "it speaks TLS to the server: what stood in place of the far end must serve TLS", change: "let the server serve TLS (`preflight serve --tls-cert`, PreflightListener.TLSConfig); or if it is plain: {insecure}"},
	{code: "far-proxy-header", when: all(farWorks, arrived(func(a Arrival) bool { return a.ProxyHeader != "" })),
		hop: "{who}", cause: "it sends a PROXY header, which the server must expect", change: trustProxy},
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

// lost holds if the far end got requests without this field, which was sent.
func lost(field string) func(*evidence) bool {
	return func(e *evidence) bool { return e.farView != nil && slices.Contains(e.farView.Removed, field) }
}
