// Package preflight carries any TCP protocol through an HTTP reverse proxy. (It
// has nothing to do with the preflight requests of CORS.)
//
// Behind one port, a reverse proxy routes by path. The dialer sends one HTTP/1.1
// request, the listener answers it, and from then on both ends of the connection
// speak their own protocol, with nothing added to its bytes:
//
//	GET /client/amps/json HTTP/1.1
//	Host: edge.example
//	Connection: Upgrade
//	Upgrade: tcp
//
//	HTTP/1.1 101 Switching Protocols
//	Upgrade: tcp
//	Connection: Upgrade
//
//	... the bytes of the application, both ways ...
//
// This is the Upgrade of RFC 9110 §7.8. The token tcp is not registered; Docker's
// API has used it in the same sense for years. The token tcps, for which AMPS's
// clients ask where they speak TLS to the proxy, means the same.
//
// # Client
//
// A [PreflightDialer] stands where a [net.Dialer] stood:
//
//	d := &preflight.PreflightDialer{Path: "/client/amps/json"}
//	conn, err := d.DialContext(ctx, "tcp", "edge.example:80")
//
// or takes a URL, as AMPS clients write it:
//
//	conn, err := d.DialURL(ctx, "tcp://edge.example:80/client/amps/json?http_preflight=true")
//
// A refusal is a [*StatusError], whose text names the likely cause. On its way the
// dialer goes through a forward proxy (Proxy), speaks TLS to the edge (TLSConfig)
// and inside the tunnel (TunnelTLSConfig), where it is told to. It asks for TLS
// inside by the field "Preflight-Tunnel: tls", which the answer must repeat.
//
// # Server
//
// A [PreflightListener] wraps the listener of an existing server:
//
//	server.Serve(&preflight.PreflightListener{Listener: ln})
//
// Clients that connect without HTTP keep working on the same port: every
// connection that does not begin with an HTTP/1.x request line is handed on
// untouched. What does begin with one is upgraded, served by Handler or refused,
// and never reaches the application. So an HTTP server, whose plain clients do begin
// with one, sets Handler. Where the server speaks first, plain clients wait for
// HandshakeTimeout unless PlainAfter is set. Where plain clients have no business on
// the port, set RequireUpgrade. TLSConfig adds TLS on the same port, TrustedProxies
// the client's address behind proxies, and ServeHTTP mounts the listener on an
// HTTP server that is already there.
//
// # Composition
//
// [Client] and [Server] perform the exchange alone on any [net.Conn]. Layers stack
// in the order in which they appear on the wire, the outermost at the bottom:
//
//	TCP -> PROXY protocol -> TLS -> preflight -> the application (or its own TLS)
//
// A PreflightListener takes all of them itself. Where one is to be required, or
// more of it is to be known, a listener for it goes underneath: that of
// [crypto/tls.NewListener] with client certificates, say, or a PROXY protocol
// listener whose TLVs are read.
//
// # Concurrency
//
// All methods are safe for concurrent use. A handshake takes place on the
// caller's goroutine (client) or on one that ends before Accept returns the
// connection (server); the library leaves no goroutine behind a connection.
//
// # Telemetry
//
// [Telemetry] makes handshakes and tunnels visible by OpenTelemetry, on both sides.
// The Context of [Conn.Request] continues the client's trace on the server.
//
// # Limits
//
// A tunnel is as good as the proxies on its way. They end one that is silent
// for a minute or less, and TCP keep-alive does not count: send an application
// message that is answered every 20 to 25 seconds. Many end both directions when
// one is closed, and all turn a reset into an orderly end, so that EOF does not
// prove that everything arrived. Some send the upgrade request twice. The README
// says more.
package preflight
