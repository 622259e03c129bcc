package chaos

import (
	"bytes"
	"fmt"
	"math"
	"strings"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

func init() { toxics.Register("staged", new(staged)) }

// An effect is what a fault does to a tunnel.
type effect int

const (
	delays   effect = iota // all of it arrives
	cuts                   // both ends are told
	silences               // nobody is told
)

// A fault is what happens to a connection from a certain stage on.
type fault struct {
	name   string
	effect effect
	toxic  toxics.Toxic // nil: done by staged itself
}

var faults = []fault{
	{"latency", delays, &toxics.LatencyToxic{Latency: 10, Jitter: 5}},
	{"slicing", delays, &toxics.SlicerToxic{AverageSize: 1}},
	{"bandwidth", delays, &toxics.BandwidthToxic{Rate: 512}},
	{"timeout", cuts, &toxics.TimeoutToxic{Timeout: 1}},
	{reset, cuts, nil},
	{halfOpen, silences, nil},
}

const (
	reset    = "reset"
	halfOpen = "half-open"
)

// A stage is a place in one direction of a connection.
type stage struct {
	name   string
	stream string // toxiproxy's name of the direction
	behind bool   // behind the HTTP head
	bytes  int
}

// atOnce is the stage at which there is only a connection; at 0 bytes something
// has come, and does not get through.
const atOnce = -1

// transfer is what each end sends in a tunnel that meets a fault. It is little,
// because on a busy machine slicing takes a millisecond for each byte.
const transfer = 4 << 10

var stages = []stage{
	{"before the head", "upstream", false, atOnce},
	{"mid-head", "upstream", false, 40},
	{"before the 101", "downstream", false, 0},
	{"mid-101", "downstream", false, 20},
	{behind101, "downstream", true, 0},
	{"mid-transfer up", "upstream", true, transfer / 2},
	{"mid-transfer down", "downstream", true, transfer / 2},
}

const behind101 = "behind the 101"

// staged is a toxic that lets bytes pass until a stage is reached, where its fault
// begins; without a fault it lets all of them pass.
type staged struct {
	fault fault
	at    stage
	// gone is closed when the hop stops. Toxiproxy's own toxics would wait for
	// ever then for a destination that has failed to take their bytes.
	gone <-chan struct{}
}

func (s *staged) Pipe(stub *toxics.ToxicStub) {
	rest, reached := s.pass(stub)
	switch {
	case !reached, s.fault.name == reset:
	case s.fault.name == halfOpen:
		go s.forward(nil, stub.Input)
		<-s.gone // not even the end of the connection gets through before
	default:
		input, output := make(chan *stream.StreamChunk), make(chan *stream.StreamChunk)
		go func() {
			defer close(input)
			s.send(input, rest)
			s.forward(input, stub.Input)
		}()
		go func() {
			s.fault.toxic.Pipe(toxics.NewToxicStub(input, output))
			s.forward(nil, input)
		}()
		s.forward(stub.Output, output)
	}
	stub.Close()
	s.forward(nil, stub.Input)
}

// forward takes chunks to the end, and passes them on as long as there is someone
// to take them.
func (s *staged) forward(to chan<- *stream.StreamChunk, from <-chan *stream.StreamChunk) {
	for c := range from {
		if to != nil {
			s.send(to, c)
		}
	}
}

func (s *staged) send(to chan<- *stream.StreamChunk, c *stream.StreamChunk) {
	if len(c.Data) == 0 {
		return
	}
	select {
	case to <- c:
	case <-s.gone:
	}
}

// pass lets through what comes before the stage. It returns what came with it
// that lies behind.
func (s *staged) pass(stub *toxics.ToxicStub) (rest *stream.StreamChunk, reached bool) {
	if s.at.bytes == atOnce {
		return &stream.StreamChunk{}, true
	}
	var seen []byte
	for c := range stub.Input {
		before := len(seen)
		seen = append(seen, c.Data...)
		begin := s.at.in(seen)
		n := min(begin, len(seen)) - before
		s.send(stub.Output, &stream.StreamChunk{Data: c.Data[:n], Timestamp: c.Timestamp})
		if begin <= len(seen) {
			return &stream.StreamChunk{Data: c.Data[n:], Timestamp: c.Timestamp}, true
		}
	}
	return nil, false
}

// in is where the stage lies in what has been seen of its direction, or beyond.
func (s stage) in(seen []byte) int {
	if !s.behind {
		return s.bytes
	}
	head := []byte("\r\n\r\n")
	end := bytes.Index(seen, head)
	if end < 0 {
		return math.MaxInt
	}
	return end + len(head) + s.bytes
}

// toxicServer is what a proxy of toxiproxy wants to belong to.
var toxicServer = toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())

// A hop is toxiproxy in front of a server.
type hop struct {
	*toxiproxy.Proxy
	gone chan struct{}
}

// startHop lets f happen to every connection to upstream, at its stages.
func startHop(upstream string, f fault, at ...stage) (*hop, error) {
	h := &hop{toxiproxy.NewProxy(toxicServer, "hop", "127.0.0.1:0", upstream), make(chan struct{})}
	never := stage{bytes: math.MaxInt}
	of := map[string]stage{"upstream": never, "downstream": never}
	for _, at := range at {
		of[at.stream] = at
	}
	for direction, at := range of {
		toxic, err := h.add("staged", direction, 1)
		if err != nil {
			return nil, err
		}
		*toxic.(*staged) = staged{f, at, h.gone}
		if f.name != reset {
			continue
		}
		// One that never takes effect makes toxiproxy set SO_LINGER, so that the
		// end of the connection is a reset.
		if _, err := h.add("reset_peer", direction, 0); err != nil {
			return nil, err
		}
	}
	return h, h.Start()
}

func (h *hop) add(toxic, direction string, toxicity int) (toxics.Toxic, error) {
	text := fmt.Sprintf(`{"type": %q, "stream": %q, "toxicity": %d}`, toxic, direction, toxicity)
	added, err := h.Toxics.AddToxicJson(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	return added.Toxic, nil
}

// stop ends all connections.
func (h *hop) stop() {
	close(h.gone)
	h.Stop()
}
