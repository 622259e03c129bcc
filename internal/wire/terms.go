package wire

// The fields of the exchange. Their names begin with Preflight-, so a user's field can never
// be one of them. TunnelField asks for TLS inside the tunnel, and the 101 confirms it. Its
// only value is tls. FramingField asks for capsules. Its only value is capsule.
const (
	TunnelField   = "Preflight-Tunnel"
	FramingField  = "Preflight-Framing"
	CarriersField = "Preflight-Carriers"
	ProtocolField = "Preflight-Protocol" // the protocol of a tunnel inside a WebSocket, if it is not tcp
	RefusalField  = "Preflight-Refusal"
)

// Subprotocol is the WebSocket subprotocol of a tunnel (RFC 6455 §1.9).
const Subprotocol = "preflight.v1"

const (
	tunnelTLS      = "tls"
	framingCapsule = "capsule"
)

// DefaultProtocol is the protocol of a tunnel inside a WebSocket without ProtocolField.
const DefaultProtocol = "tcp"

// Terms describe what a request asks for, or what a 101 agrees to.
type Terms struct {
	Protocol  string // of the tunnel, such as tcp; with WebSocket it is not the token in Upgrade
	Framed    bool   // capsules after an upgrade to Protocol
	WebSocket bool   // capsules in the messages of a WebSocket
	TunnelTLS bool   // TLS inside the tunnel
}
