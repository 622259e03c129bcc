// Package frame implements the net.Conn of a framed tunnel.
//
// A proxy may turn the end of one direction into the end of both directions. It may
// turn a reset into an orderly end, and silence into a reset or an orderly end.
// Framing puts the end of a direction into the stream, so no proxy can change its
// meaning. The stream consists of the capsules of package capsule. A capsule is
// written directly to the transport, or in a binary WebSocket message of package
// websocket.
//
// # Use
//
// The owner performs the handshake and then calls [New]. Each side does this once.
// The owner passes the transport, and the bytes that it has read after the handshake:
//
//	c := frame.New(transport, frame.Config{
//		WebSocket:       carrier == CarrierWebSocket,
//		Client:          weSentTheRequest,
//		TLS:             transportIsTLS,
//		Rest:            leftover,
//		KeepAlivePeriod: 20 * time.Second,
//		Owner:           owner,
//	})
//
// After that, only the Conn may read, write or close the transport. The layer above
// is a tls.Conn or the application. It uses c as a net.Conn that also has CloseWrite,
// CloseRead, ReadFrom and WriteTo. A tls.Conn above sends its close_notify before
// the owner calls [Conn.CloseWrite].
//
// Zero and negative settings both disable a feature. The owner resolves defaults.
//
// # How a connection ends
//
//	CloseWrite  sends FINAL_DATA and a PING. The peer's PONG confirms that the peer
//	            has received everything. Read still works.
//	Close       sends FINAL_DATA and a PING, unless CloseWrite has sent them, and
//	            returns. The transport lingers until the PONG arrives or the peer
//	            ends the transport, for 60 s at most. If a Write is in progress or
//	            has failed, or the transport has been reset or was closed below the
//	            Conn, Close closes the transport at once.
//	EndLinger   closes a transport that lingers.
//
// Owner.Lingers is called when a transport begins to linger. Owner.Ended is called when
// the transport has been closed. Each is called at most once. Ended may be called first,
// or without Lingers. This happens if the transport is closed at once. It also happens if
// both sides have ended their directions while the application still holds the
// connection. An owner that counts transports adds one when it calls New and removes it in
// Ended. An owner that limits lingering transports keeps a list: it adds in Lingers,
// removes in Ended, and calls EndLinger on the oldest.
//
// When a program exits, its lingering transports end too. io.EOF of Read does not say
// that the peer has received everything: it may end its direction first. After CloseWrite
// and io.EOF, the transport ends by itself when both sides have confirmed. Close then
// returns nil, and an error if the transport has ended before the peer has confirmed.
//
// # Goroutines
//
// An open connection has no goroutine. If the peer sends a PING while no Write is in
// progress, a goroutine sends the PONG and then ends. After the peer has sent
// FINAL_DATA, one goroutine reads until the transport ends. A transport that lingers
// also has one goroutine that reads.
package frame
