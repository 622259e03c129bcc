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
	delays   effect = iota // everything arrives
	cuts                   // both ends notice
	silences               // no end notices
)

// A fault is what happens to a connection from a stage on.
type fault struct {
	name   string
	effect effect
	toxic  toxics.Toxic // nil: staged does it itself
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
	name      string
	stream    string // the direction, as toxiproxy names it
	afterHead bool   // bytes are counted from the end of the HTTP head
	bytes     int
}

// onConnect is the place of a stage before any data. At 0, the first data has reached the
// hop, and does not pass it.
const onConnect = -1

// transfer is how many bytes each end of a tunnel with a fault sends. They are few, because
// slicing takes a millisecond for each byte on a busy machine.
const transfer = 4 << 10

var stages = []stage{
	{"before the head", "upstream", false, onConnect},
	{"mid-head", "upstream", false, 40},
	{"before the 101", "downstream", false, 0},
	{"mid-101", "downstream", false, 20},
	{after101, "downstream", true, 0},
	{"mid-transfer up", "upstream", true, transfer / 2},
	{"mid-transfer down", "downstream", true, transfer / 2},
}

const after101 = "behind the 101"

// staged is a toxic that passes bytes on until a stage is reached. There its fault begins.
type staged struct {
	fault fault
	at    stage
	// stopped is closed when the hop stops. Without it, the toxics of toxiproxy would wait
	// forever for a destination that does not read any more.
	stopped <-chan struct{}
}

func (s *staged) Pipe(stub *toxics.ToxicStub) {
	rest, reached := s.pass(stub)
	switch {
	case !reached, s.fault.name == reset:
	case s.fault.name == halfOpen:
		go s.forward(nil, stub.Input)
		<-s.stopped // until then, even the end of the connection does not pass
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

// forward reads chunks to the end. It passes them on to to, or drops them if to is nil.
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
	case <-s.stopped:
	}
}

// pass passes on what comes before the stage. rest is what follows it in the same chunk.
func (s *staged) pass(stub *toxics.ToxicStub) (rest *stream.StreamChunk, reached bool) {
	if s.at.bytes == onConnect {
		return &stream.StreamChunk{}, true
	}
	var seen []byte
	for c := range stub.Input {
		before := len(seen)
		seen = append(seen, c.Data...)
		begin := s.at.offset(seen)
		n := min(begin, len(seen)) - before
		s.send(stub.Output, &stream.StreamChunk{Data: c.Data[:n], Timestamp: c.Timestamp})
		if begin <= len(seen) {
			return &stream.StreamChunk{Data: c.Data[n:], Timestamp: c.Timestamp}, true
		}
	}
	return nil, false
}

// offset returns the offset of the stage in its direction, of which seen is the beginning.
func (s stage) offset(seen []byte) int {
	if !s.afterHead {
		return s.bytes
	}
	head := []byte("\r\n\r\n")
	end := bytes.Index(seen, head)
	if end < 0 {
		return math.MaxInt
	}
	return end + len(head) + s.bytes
}

// toxicServer is the server that each proxy of toxiproxy needs.
var toxicServer = toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())

// A hop is a proxy of toxiproxy in front of a server.
type hop struct {
	*toxiproxy.Proxy
	stopped chan struct{}
}

// startHop starts a hop in which f happens to each connection to upstream, at the stages.
func startHop(upstream string, f fault, at ...stage) (*hop, error) {
	h := &hop{toxiproxy.NewProxy(toxicServer, "hop", "127.0.0.1:0", upstream), make(chan struct{})}
	never := stage{bytes: math.MaxInt}
	byDirection := map[string]stage{"upstream": never, "downstream": never}
	for _, at := range at {
		byDirection[at.stream] = at
	}
	for direction, at := range byDirection {
		toxic, err := h.add("staged", direction, 1)
		if err != nil {
			return nil, err
		}
		*toxic.(*staged) = staged{f, at, h.stopped}
		if f.name != reset {
			continue
		}
		// With this toxic, which never takes effect, toxiproxy sets SO_LINGER, so that the
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

// stop closes all connections.
func (h *hop) stop() {
	close(h.stopped)
	h.Stop()
}
