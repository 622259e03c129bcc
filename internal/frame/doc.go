// Package frame is the net.Conn of a framed tunnel.
//
// A proxy may turn the end of one direction into the end of both, a reset into an
// orderly end, and silence into either. Framing puts the end of a direction into
// the stream, so that no proxy can change what it means. The stream consists of
// the capsules of package capsule: on the bare transport, or each in a binary
// WebSocket message of package websocket.
//
// # Use
//
// The owner does the handshake and then calls [New], once for each side. It hands
// over the transport, and what it has read from the transport behind the handshake:
//
//	c := frame.New(transport, frame.Config{
//		WebSocket:       carrier == CarrierWebSocket,
//		Client:          weSentTheRequest,
//		TLS:             transportIsTLS,
//		Rest:            leftover,
//		KeepAlivePeriod: 20 * time.Second,
//		OnLinger:        func() { … },
//		OnClosed:        func() { … },
//	})
//
// From then on nobody else may read, write or close the transport. What lies above,
// a tls.Conn or the application, uses c as a net.Conn that has CloseWrite,
// CloseRead, ReadFrom and WriteTo. A tls.Conn above sends its close_notify before
// the owner calls [Conn.CloseWrite].
//
// Negative settings and zero both disable what they belong to: the owner resolves
// defaults.
//
// # Ends
//
//	CloseWrite  sends FINAL_DATA and a PING. The peer's PONG says that it has read
//	            everything. Reading goes on.
//	Close       does so too unless CloseWrite has, and returns. The transport
//	            lingers until the PONG comes, or the peer's end, for 60 s at most.
//	            If a Write is under way or has failed, it is closed at once.
//	EndLinger   closes a transport that lingers.
//
// OnLinger is called when a transport begins to linger, OnClosed when it has been
// closed, each once. OnClosed may come first or alone: where the transport was
// closed at once, or where both sides have ended their directions while the
// application still holds the connection. An owner that counts transports adds one
// with New and removes it with OnClosed. One that limits lingers keeps a list: it
// adds in OnLinger, removes in OnClosed, and calls EndLinger on the oldest. Neither
// function is called under a lock, and neither may block.
//
// A program that exits takes its lingers with it. To be sure that the peer has
// everything, call CloseWrite, Read until io.EOF, then Close.
//
// # Goroutines
//
// An open connection has none. A PING that the peer sends while nothing is being
// written is answered by one that ends behind its answer. A connection whose peer
// has sent FINAL_DATA has one that reads, until the transport ends; so has a
// transport that lingers.
package frame
