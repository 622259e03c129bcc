package peers

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"sync"
)

// A socket is a WebSocket of another implementation. Only one goroutine may send at a time.
type socket interface {
	send(fragments ...[]byte) error // one binary message
	sendText() error
	// sendPing sends a Ping frame, and calls answered when the Pong has arrived. It
	// does not wait.
	sendPing(answered func()) error
	receive() ([]byte, error) // the next message; a closeError at the end
	close(code int) error     // code 1005 sends a Close frame without a code
	drop()                    // ends the connection without a Close frame
}

// A closeError is the code of a received Close frame.
type closeError int

func (e closeError) Error() string { return "closed with " + strconv.Itoa(int(e)) }

// A report describes what a peer has received from a tunnel.
type report struct {
	Bytes    int
	SHA256   string
	Final    bool // FINAL_DATA has arrived
	Pings    int  // PING capsules
	Pongs    int  // PONG capsules
	RFCPongs int  // Pong frames
	Close    int  // the code; 1006 if there was no Close frame
}

// A talker is a peer in a tunnel. testdata/peer.js does the same in JavaScript.
type talker struct {
	socket
	mode string
	work sync.WaitGroup

	mu     sync.Mutex // also held while sending
	report report
	err    error

	hash   hash.Hash
	kept   []byte
	asked  bool
	closed bool // this side has ended the tunnel and sends nothing more
}

// talk performs the mode until the tunnel ends. In the mode late, it reads nothing until gate is
// closed.
func talk(s socket, mode string, gate <-chan struct{}) (report, error) {
	p := &talker{socket: s, mode: mode, hash: sha256.New()}
	switch mode {
	case "source":
		p.work.Go(func() { p.put(encodeAll(payload)) })
	case "late":
		<-gate
	}
	p.read()
	p.drop()
	p.work.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.SHA256 = hex.EncodeToString(p.hash.Sum(nil))
	return p.report, p.err
}

func (p *talker) read() {
	var rest []byte
	for {
		message, err := p.receive()
		if err != nil {
			p.report.Close = 1006
			if code, ok := errors.AsType[closeError](err); ok {
				p.report.Close = int(code)
			}
			return
		}
		rest = append(rest, message...)
		for {
			kind, value, behind, ok := decode(rest)
			if !ok {
				break
			}
			p.take(kind, value)
			rest = behind
		}
	}
}

func (p *talker) take(kind uint64, value []byte) {
	switch kind {
	case data, finalData:
		p.report.Bytes += len(value)
		p.hash.Write(value)
		if len(value) > 0 {
			p.takeData(value)
		}
		if kind == finalData {
			p.report.Final = true
			p.takeFinal()
		}
	case ping:
		p.report.Pings++
		p.put(encode(pong, value))
		if p.mode == "pings" && p.report.Pings >= 20 && !p.asked {
			p.asked = true
			p.put(encode(ping, []byte("capsules")))
			p.note(p.sendPing(func() { p.answered(&p.report.RFCPongs) }))
		}
	case pong:
		p.answered(&p.report.Pongs)
	default:
		p.note(fmt.Errorf("a capsule of type %x", kind))
	}
}

func (p *talker) takeData(value []byte) {
	switch code, closes := strings.CutPrefix(p.mode, "close/"); {
	case closes:
		n, _ := strconv.Atoi(code)
		p.leave(n)
	case p.mode == "echo":
		p.put(encode(data, value))
	case p.mode == "reply":
		p.kept = append(p.kept, value...)
	case p.mode == "drop":
		p.closed = true
		p.drop()
	case p.mode == "text":
		p.note(p.sendText())
	case p.mode == "end-and-close":
		p.put(encode(finalData, nil))
		p.leave(1000)
	}
}

func (p *talker) takeFinal() {
	switch p.mode {
	case "echo", "late":
		p.put(encode(finalData, nil))
	case "reply":
		p.work.Go(func() { p.put(encodeAll(p.kept)) })
	}
}

// answered counts a Pong, and ends the direction when both Pongs have arrived.
func (p *talker) answered(count *int) {
	p.mu.Lock()
	*count++
	both := p.mode == "pings" && p.report.Pongs == 1 && p.report.RFCPongs == 1
	p.mu.Unlock()
	if both {
		p.put(encode(finalData, nil))
	}
}

// leave sends a Close frame.
func (p *talker) leave(code int) {
	p.closed = true
	p.note(p.close(code))
}

// put sends a piece of the stream, split into messages and fragments.
func (p *talker) put(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; len(b) > 0 && p.err == nil && !p.closed; i++ {
		n := min(cuts[i%len(cuts)], len(b))
		third := (n + 2) / 3
		message := bytes.Clone(b[:n]) // an implementation may mask in place
		p.err = p.send(message[:third], message[third:min(2*third, n)], message[min(2*third, n):])
		b = b[n:]
	}
}

func (p *talker) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}
