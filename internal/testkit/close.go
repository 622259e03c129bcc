package testkit

import (
	"testing"
)

// A Stage is a step of the handshake at which a client can stay before Accept
// has returned its connection.
type Stage struct {
	Name    string
	Is      stageKind
	Mounted bool
	Bring   func(testing.TB, *Scene, *Client)
}

// stageKind tells what must happen next at a stage.
type stageKind int

const (
	StageWaits    stageKind = iota // the listener waits for bytes of the client
	StageSilent                    // likewise, and the client may be plain
	StageBusy                      // the listener is working
	StageRefused                   // the client is refused, and has one second to read that
	StageFinished                  // the connection waits for Accept
	StageServed                    // Handler serves it
)

// SendStep returns a step in which a client sends s and reads nothing.
func SendStep(s string) func(testing.TB, *Scene, *Client) {
	return func(t testing.TB, _ *Scene, c *Client) { c.Send(t, s) }
}

// AskStep returns a step in which a client sends s and reads the answer.
func AskStep(s string) func(testing.TB, *Scene, *Client) {
	return func(_ testing.TB, _ *Scene, c *Client) { c.Ask(s) }
}

// OverTLS returns the step bring over TLS.
func OverTLS(bring func(testing.TB, *Scene, *Client)) func(testing.TB, *Scene, *Client) {
	return func(t testing.TB, s *Scene, c *Client) { bring(t, s, Secure(t, c, s.ClientTLS)) }
}

var Stages = []Stage{
	{Name: "silent", Is: StageSilent, Bring: SendStep("")},
	{Name: "in the PROXY header", Bring: SendStep("PROXY TCP4 192.0.2.7")},
	{Name: "in the binary PROXY header", Bring: SendStep("\r\n\r\n\x00\r\nQUIT\n\x21")},
	{Name: "behind the PROXY header", Is: StageSilent, Bring: SendStep(ThroughProxy)},
	{Name: "in the first bytes of the binary PROXY header", Bring: SendStep("\r\n\r")},
	{Name: "in the first bytes of the TLS hello", Bring: SendStep(SceneHello[:3])},
	{Name: "in the TLS hello", Bring: SendStep(SceneHello)},
	{Name: "in the TLS hello behind a PROXY header", Bring: SendStep(ThroughProxy + SceneHello)},
	{Name: "in the TLS handshake", Bring: func(t testing.TB, s *Scene, c *Client) { s.HalfTLS(t, c) }},
	{Name: "silent behind the TLS handshake", Is: StageSilent, Bring: OverTLS(SendStep(""))},
	{Name: "in the head", Bring: SendStep("GET /t HTTP/1.1\r\nHost: h\r\n")},
	{Name: "in the head over TLS", Bring: OverTLS(SendStep("GET /t HTTP/1.1\r\nHost: h\r\n"))},
	{Name: "in Authorize", Is: StageBusy, Bring: AskStep(Request("Wait: yes"))},
	{Name: "in Authorize over TLS", Is: StageBusy, Bring: OverTLS(AskStep(Request("Wait: yes")))},
	{Name: "does not read its 101", Is: StageBusy, Bring: SendStep(Request())},
	{Name: "does not read its 101 over TLS", Is: StageBusy, Bring: OverTLS(SendStep(Request()))},
	{Name: "silent behind the 101 for TLS inside", Bring: AskStep(TunnelTLSRequest)},
	{Name: "in the hello inside the tunnel", Bring: func(t testing.TB, _ *Scene, c *Client) {
		c.Upgraded(t, TunnelTLSRequest).Send(t, SceneHello)
	}},
	{Name: "in the handshake inside the tunnel", Bring: func(t testing.TB, s *Scene, c *Client) {
		s.HalfTLS(t, c.Upgraded(t, TunnelTLSRequest))
	}},
	{Name: "in the handshake inside the tunnel over TLS", Bring: func(t testing.TB, s *Scene, c *Client) {
		s.HalfTLS(t, Secure(t, c, s.ClientTLS).Upgraded(t, TunnelTLSRequest))
	}},
	{Name: "finished", Is: StageFinished, Bring: AskStep(Request())},
	{Name: "finished and plain", Is: StageFinished, Bring: SendStep("\x00")},
	{Name: "finished over TLS", Is: StageFinished, Bring: func(t testing.TB, s *Scene, c *Client) {
		DiscardInput(Secure(t, c, s.ClientTLS).Upgraded(t, Request()))
	}},
	{Name: "finished with TLS inside", Is: StageFinished, Bring: func(t testing.TB, s *Scene, c *Client) {
		DiscardInput(Secure(t, c.Upgraded(t, TunnelTLSRequest), s.ClientTLS))
	}},
	{Name: "does not read its refusal", Is: StageRefused, Bring: SendStep(malformedStage)},
	{Name: "does not leave after its refusal", Is: StageRefused, Bring: AskStep(malformedStage)},
	{Name: "in Handler", Is: StageServed, Bring: AskStep(Held)},
	{Name: "in Handler over TLS", Is: StageServed, Bring: func(t testing.TB, s *Scene, c *Client) {
		c = Secure(t, c, s.ClientTLS)
		c.Send(t, Held)
		DiscardInput(c)
	}},
	{Name: "between two requests to Handler", Is: StageServed, Bring: func(t testing.TB, _ *Scene, c *Client) { c.Asked(t, Ordinary) }},
	{Name: "in the head behind a request to Handler", Is: StageServed, Bring: func(t testing.TB, _ *Scene, c *Client) {
		c.Asked(t, Ordinary).Send(t, Request()[:50])
	}},
	{Name: "in Authorize behind a request to Handler", Is: StageBusy, Bring: func(t testing.TB, _ *Scene, c *Client) {
		c.Asked(t, Ordinary).Ask(Request("Wait: yes"))
	}},
	{Name: "does not read its 101 behind a request to Handler", Is: StageBusy, Bring: func(t testing.TB, _ *Scene, c *Client) {
		c.Asked(t, Ordinary).Send(t, Request())
	}},
	{Name: "does not read its 101 behind a request to Handler over TLS", Is: StageBusy, Bring: OverTLS(func(t testing.TB, _ *Scene, c *Client) {
		c.Asked(t, Ordinary).Send(t, Request())
	})},
	{Name: "finished behind a request to Handler", Is: StageFinished, Bring: func(t testing.TB, _ *Scene, c *Client) {
		c.Asked(t, Ordinary).Upgraded(t, Request())
	}},
	{Name: "in ServeHTTP, in Authorize", Is: StageBusy, Mounted: true, Bring: AskStep(Request("Wait: yes"))},
	{Name: "in ServeHTTP, does not read its 101", Is: StageBusy, Mounted: true, Bring: SendStep(Request())},
	{Name: "in ServeHTTP, silent behind the 101 for TLS inside", Mounted: true, Bring: AskStep(TunnelTLSRequest)},
	{Name: "in ServeHTTP, in the handshake inside the tunnel", Mounted: true, Bring: func(t testing.TB, s *Scene, c *Client) {
		s.HalfTLS(t, c.Upgraded(t, TunnelTLSRequest))
	}},
	{Name: "in ServeHTTP, finished", Is: StageFinished, Mounted: true, Bring: AskStep(Request())},
	{Name: "in ServeHTTP, does not leave after its refusal", Is: StageRefused, Mounted: true, Bring: AskStep(Request("Content-Length: 1") + "x")},
}
