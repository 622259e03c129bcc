package testkit

import (
	"testing"
)

// A ShdStage is a place at which a client can be, and stay, before Accept has
// returned its connection.
type ShdStage struct {
	Name    string
	Is      shdIs
	Mounted bool
	Bring   func(testing.TB, *ShdScene, *LisClient)
}

// shdIs says what is to happen next at a stage.
type shdIs int

const (
	ShdWaits    shdIs = iota // we wait for bytes of the client
	ShdSilent                // likewise, and it may be plain
	ShdBusy                  // the work is ours
	ShdRefused               // it is refused, and has a second to read that
	ShdFinished              // it waits for Accept
	ShdServed                // Handler serves it
)

// ShdSend is a stage in which a client has sent s, and reads nothing.
func ShdSend(s string) func(testing.TB, *ShdScene, *LisClient) {
	return func(t testing.TB, _ *ShdScene, c *LisClient) { c.Send(t, s) }
}

// ShdAsk is a stage in which a client has sent s and reads.
func ShdAsk(s string) func(testing.TB, *ShdScene, *LisClient) {
	return func(_ testing.TB, _ *ShdScene, c *LisClient) { c.Ask(s) }
}

// ShdTLS is bring over TLS.
func ShdTLS(bring func(testing.TB, *ShdScene, *LisClient)) func(testing.TB, *ShdScene, *LisClient) {
	return func(t testing.TB, s *ShdScene, c *LisClient) { bring(t, s, LisSecure(t, c, s.ClientTLS)) }
}

var ShdStages = []ShdStage{
	{Name: "silent", Is: ShdSilent, Bring: ShdSend("")},
	{Name: "in the PROXY header", Bring: ShdSend("PROXY TCP4 192.0.2.7")},
	{Name: "in the binary PROXY header", Bring: ShdSend("\r\n\r\n\x00\r\nQUIT\n\x21")},
	{Name: "behind the PROXY header", Is: ShdSilent, Bring: ShdSend(ShdProxy)},
	{Name: "in the first bytes of the binary PROXY header", Bring: ShdSend("\r\n\r")},
	{Name: "in the first bytes of the TLS hello", Bring: ShdSend(ShdHello[:3])},
	{Name: "in the TLS hello", Bring: ShdSend(ShdHello)},
	{Name: "in the TLS hello behind a PROXY header", Bring: ShdSend(ShdProxy + ShdHello)},
	{Name: "in the TLS handshake", Bring: func(t testing.TB, s *ShdScene, c *LisClient) { s.HalfTLS(t, c) }},
	{Name: "silent behind the TLS handshake", Is: ShdSilent, Bring: ShdTLS(ShdSend(""))},
	{Name: "in the head", Bring: ShdSend("GET /t HTTP/1.1\r\nHost: h\r\n")},
	{Name: "in the head over TLS", Bring: ShdTLS(ShdSend("GET /t HTTP/1.1\r\nHost: h\r\n"))},
	{Name: "in Authorize", Is: ShdBusy, Bring: ShdAsk(LisRequest("Wait: yes"))},
	{Name: "in Authorize over TLS", Is: ShdBusy, Bring: ShdTLS(ShdAsk(LisRequest("Wait: yes")))},
	{Name: "does not read its 101", Is: ShdBusy, Bring: ShdSend(LisRequest())},
	{Name: "does not read its 101 over TLS", Is: ShdBusy, Bring: ShdTLS(ShdSend(LisRequest()))},
	{Name: "silent behind the 101 for TLS inside", Bring: ShdAsk(ShdTunnels)},
	{Name: "in the hello inside the tunnel", Bring: func(t testing.TB, _ *ShdScene, c *LisClient) {
		c.Upgraded(t, ShdTunnels).Send(t, ShdHello)
	}},
	{Name: "in the handshake inside the tunnel", Bring: func(t testing.TB, s *ShdScene, c *LisClient) {
		s.HalfTLS(t, c.Upgraded(t, ShdTunnels))
	}},
	{Name: "in the handshake inside the tunnel over TLS", Bring: func(t testing.TB, s *ShdScene, c *LisClient) {
		s.HalfTLS(t, LisSecure(t, c, s.ClientTLS).Upgraded(t, ShdTunnels))
	}},
	{Name: "finished", Is: ShdFinished, Bring: ShdAsk(LisRequest())},
	{Name: "finished and plain", Is: ShdFinished, Bring: ShdSend("\x00")},
	{Name: "finished over TLS", Is: ShdFinished, Bring: func(t testing.TB, s *ShdScene, c *LisClient) {
		ShdRead(LisSecure(t, c, s.ClientTLS).Upgraded(t, LisRequest()))
	}},
	{Name: "finished with TLS inside", Is: ShdFinished, Bring: func(t testing.TB, s *ShdScene, c *LisClient) {
		ShdRead(LisSecure(t, c.Upgraded(t, ShdTunnels), s.ClientTLS))
	}},
	{Name: "does not read its refusal", Is: ShdRefused, Bring: ShdSend(shdMalformed)},
	{Name: "does not leave after its refusal", Is: ShdRefused, Bring: ShdAsk(shdMalformed)},
	{Name: "in Handler", Is: ShdServed, Bring: ShdAsk(ShdHeld)},
	{Name: "in Handler over TLS", Is: ShdServed, Bring: func(t testing.TB, s *ShdScene, c *LisClient) {
		c = LisSecure(t, c, s.ClientTLS)
		c.Send(t, ShdHeld)
		ShdRead(c)
	}},
	{Name: "between two requests to Handler", Is: ShdServed, Bring: func(t testing.TB, _ *ShdScene, c *LisClient) { c.Asked(t, ShdOrdinary) }},
	{Name: "in the head behind a request to Handler", Is: ShdServed, Bring: func(t testing.TB, _ *ShdScene, c *LisClient) {
		c.Asked(t, ShdOrdinary).Send(t, LisRequest()[:50])
	}},
	{Name: "in Authorize behind a request to Handler", Is: ShdBusy, Bring: func(t testing.TB, _ *ShdScene, c *LisClient) {
		c.Asked(t, ShdOrdinary).Ask(LisRequest("Wait: yes"))
	}},
	{Name: "does not read its 101 behind a request to Handler", Is: ShdBusy, Bring: func(t testing.TB, _ *ShdScene, c *LisClient) {
		c.Asked(t, ShdOrdinary).Send(t, LisRequest())
	}},
	{Name: "does not read its 101 behind a request to Handler over TLS", Is: ShdBusy, Bring: ShdTLS(func(t testing.TB, _ *ShdScene, c *LisClient) {
		c.Asked(t, ShdOrdinary).Send(t, LisRequest())
	})},
	{Name: "finished behind a request to Handler", Is: ShdFinished, Bring: func(t testing.TB, _ *ShdScene, c *LisClient) {
		c.Asked(t, ShdOrdinary).Upgraded(t, LisRequest())
	}},
	{Name: "in ServeHTTP, in Authorize", Is: ShdBusy, Mounted: true, Bring: ShdAsk(LisRequest("Wait: yes"))},
	{Name: "in ServeHTTP, does not read its 101", Is: ShdBusy, Mounted: true, Bring: ShdSend(LisRequest())},
	{Name: "in ServeHTTP, silent behind the 101 for TLS inside", Mounted: true, Bring: ShdAsk(ShdTunnels)},
	{Name: "in ServeHTTP, in the handshake inside the tunnel", Mounted: true, Bring: func(t testing.TB, s *ShdScene, c *LisClient) {
		s.HalfTLS(t, c.Upgraded(t, ShdTunnels))
	}},
	{Name: "in ServeHTTP, finished", Is: ShdFinished, Mounted: true, Bring: ShdAsk(LisRequest())},
	{Name: "in ServeHTTP, does not leave after its refusal", Is: ShdRefused, Mounted: true, Bring: ShdAsk(LisRequest("Content-Length: 1") + "x")},
}
