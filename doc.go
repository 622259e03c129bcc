// Package preflight carries any TCP protocol through an HTTP reverse proxy. (It
// is not related to the preflight requests of CORS.)
//
// A reverse proxy routes requests by path, on one port. The dialer sends one
// HTTP/1.1 request, and the listener answers it. After that, both ends of the
// connection speak their own protocol, and the package adds nothing to its bytes:
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
//	... the bytes of the application, in both directions ...
//
// This is the Upgrade mechanism of RFC 9110 §7.8. The token tcp is not registered,
// but Docker's API has used it in the same sense for years. The token tcps has the
// same meaning: AMPS clients ask for it if they speak TLS to the proxy.
//
// # Client
//
// A [PreflightDialer] replaces a [net.Dialer]:
//
//	d := &preflight.PreflightDialer{Path: "/client/amps/json"}
//	conn, err := d.DialContext(ctx, "tcp", "edge.example:80")
//
// It also accepts a URL in the form that AMPS clients use:
//
//	conn, err := d.DialURL(ctx, "tcp://edge.example:80/client/amps/json?http_preflight=true")
//
// If the proxy or the server refuses the upgrade, the error is a [*StatusError],
// whose text names the likely cause. The dialer can go through a forward proxy
// (Proxy), speak TLS to the reverse proxy (TLSConfig), and speak TLS inside the
// tunnel (TunnelTLSConfig). It asks for TLS inside the tunnel with the field
// "Preflight-Tunnel: tls", which the answer must repeat.
//
// # Carriers
//
// Many edges forward no upgrade except WebSocket. If the answer to the upgrade shows that,
// the dialer opens a WebSocket instead, and remembers it for later dials. A WebSocket
// ([CarrierWebSocket]) carries the bytes in capsules. [CarrierFramed] also uses capsules,
// without WebSocket; the dialer uses it only if Carriers lists it. The capsules carry the end
// of each direction. So a half-close passes every proxy, and a stream that was cut is an
// error. PINGs keep silent tunnels open. See PreflightDialer.Carriers.
//
// # Server
//
// A [PreflightListener] wraps the listener of an existing server:
//
//	server.Serve(&preflight.PreflightListener{Listener: ln})
//
// Clients that connect without HTTP keep working on the same port. A connection
// that does not begin with an HTTP request line is passed to the application
// unchanged, unless Authorize or RequireUpgrade is set. A connection that begins
// with one is upgraded, served by Handler or refused. Its request never reaches
// the application. So the listener of an HTTP server must set Handler, because
// the clients of that server also begin with a request line.
//
// If the server speaks first in its protocol, plain clients wait for
// HandshakeTimeout unless PlainAfter is set. If only tunnels are allowed on the
// port, set RequireUpgrade. TLSConfig adds TLS on the same port. TrustedProxies
// gives the client's address behind proxies. ServeHTTP mounts the listener on an
// existing HTTP server.
//
// # Composition
//
// [Client] and [Server] perform only the upgrade, on any [net.Conn]. Layers stack
// in the order in which they appear on the wire, the outermost at the bottom:
//
//	TCP -> PROXY protocol -> TLS -> preflight -> the application (or its own TLS)
//
// A PreflightListener accepts all of these layers. To require a layer, or to learn
// more about it, put a listener for it underneath. For example,
// [crypto/tls.NewListener] can require client certificates, and a PROXY protocol
// listener can read TLVs.
//
// # Concurrency
//
// All methods are safe for concurrent use. A client handshake runs on the caller's
// goroutine. A server handshake runs on a goroutine that ends before Accept returns
// the connection. A connection has no goroutine of its own, with one exception: a
// goroutine reads from a framed or WebSocket tunnel while it is half-closed, and while it
// waits after Close until the peer has received everything.
//
// # Telemetry
//
// [Telemetry] reports handshakes and tunnels to OpenTelemetry, on both sides. The
// Context of [Conn.Request] continues the client's trace on the server.
//
// # Limits
//
// With [CarrierUpgrade] the proxies in the path limit what a tunnel can do:
//
//   - Many proxies close a tunnel that is silent for a minute or less. TCP
//     keep-alive does not count. Send an application message that is answered every
//     20 to 25 seconds.
//   - Many proxies close both directions when one direction ends.
//   - All proxies turn a reset into an orderly end. EOF does not prove that
//     everything arrived.
//
// With every carrier, some proxies send the upgrade request twice, and some end each
// tunnel at a certain age.
//
// The folder docs of the repository says more.
package preflight
