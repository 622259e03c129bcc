package check

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/preflight-go/preflight"
)

// A Finding is what a tunnel, or the path to it, bears.
type Finding struct {
	Name   string  `json:"name"` // header-limit, sizes, half-close or idle
	OK     bool    `json:"ok"`   // it bears what was asked for
	Detail string  `json:"detail"`
	Change string  `json:"change,omitempty"`
	Millis float64 `json:"ms"`
}

// use asks what only a tunnel that works can answer.
func (c *checker) use(ctx context.Context) {
	run := func(name string, wanted bool, what func(context.Context) Finding) {
		if !wanted || ctx.Err() != nil {
			return
		}
		c.progress(name)
		begin := time.Now()
		f := what(ctx)
		f.Name, f.Millis = name, millis(time.Since(begin))
		c.e.findings = append(c.e.findings, f)
	}
	run("header-limit", c.e.others == "", c.headerLimit)
	run("sizes", c.Sizes, c.sizes)
	run("half-close", c.HalfClose, c.halfClose)
	run("idle", c.Idle > 0, c.idle)
}

// maxLimit is the largest head that is tried.
const maxLimit = 64 << 10

// headerLimit finds by bisection how large the head of a request may be. It asks for a framing
// that no listener knows, so that it opens no tunnel.
func (c *checker) headerLimit(ctx context.Context) Finding {
	ask := func(size int) *Answer {
		const field = 2 << 10 // below the limit of every proxy for one field
		const upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Framing: check\r\n"
		base := len(c.request(c.Dialer.Path, c.host(), "size", upgrade))
		var b strings.Builder
		b.WriteString(upgrade)
		for left := size - base; left > 0; left -= field {
			name := fmt.Sprintf("X-Fill-%d: ", b.Len())
			b.WriteString(name + strings.Repeat("x", max(min(left, field)-len(name)-2, 1)) + "\r\n")
		}
		return c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, c.host(), "size", b.String()))
	}
	small := ask(0)
	if small.Outcome != answered {
		return Finding{Detail: "an ordinary request is not answered, so the limit cannot be found"}
	}
	if small.is(http.StatusTooManyRequests) || small.Status >= 500 {
		return Finding{Detail: fmt.Sprintf("an ordinary request gets %s, so the limit cannot be found", small.text())}
	}
	passes := func(a *Answer) bool {
		return a.Outcome == answered && a.Status == small.Status && a.Reason == small.Reason
	}
	low, high, refused := 1<<10, maxLimit, ask(maxLimit)
	if passes(refused) {
		return Finding{OK: true, Detail: "a head of 64 KiB passes"}
	}
	for high-low > 1<<10 {
		middle := (low + high) / 2
		if a := ask(middle); passes(a) {
			low = middle
		} else {
			high, refused = middle, a
		}
	}
	if refused.Outcome == answered && (refused.Status < 400 || refused.is(http.StatusNotFound, http.StatusTooManyRequests)) {
		return Finding{Detail: fmt.Sprintf("larger requests get %s, which is no answer to a head that is too large, so the limit cannot be found", refused.text())}
	}
	f := Finding{OK: low >= 7<<10, Detail: fmt.Sprintf("a head of %d KiB passes, and of %d KiB not (%s)", low>>10, (high+1023)>>10, refused.text())}
	if !f.OK {
		f.Change = "raise the limit: nginx `large_client_header_buffers`, Apache `LimitRequestFieldSize`, HAProxy `tune.bufsize`, Envoy `max_request_headers_kb`"
	}
	return f
}

const needsFar = "it needs the far end: run `preflight check --listen ADDR` there, in place of the server, or `preflight serve` with --echo in place of --to"

// sizes sends messages of 16 to 128 KiB, and waits for each to come back.
func (c *checker) sizes(ctx context.Context) Finding {
	if c.e.far == nil {
		return Finding{Detail: needsFar}
	}
	var texts []string
	for _, carrier := range allCarriers {
		if !c.e.opens(carrier) {
			continue
		}
		for _, size := range []int{16, 32, 64, 128} {
			if err := c.sendAndReceive(ctx, carrier, size<<10); err != nil {
				return Finding{
					Detail: fmt.Sprintf("%d KiB in one write do not come back by %s: %s", size, carrier, plainError(err)),
					Change: "a proxy on the way limits or changes messages of WebSocket: raise its limit for a message (Spring Cloud Gateway, API gateways, WAFs)",
				}
			}
		}
		texts = append(texts, string(carrier))
	}
	return Finding{OK: true, Detail: "16, 32, 64 and 128 KiB in one write come back by " + strings.Join(texts, ", ")}
}

// sendAndReceive sends size bytes in one call, and reads them back.
func (c *checker) sendAndReceive(ctx context.Context, carrier preflight.Carrier, size int) error {
	tunnel, err := c.dialTunnel(ctx, carrier)
	if err != nil {
		return err
	}
	defer tunnel.Close()
	tunnel.SetDeadline(time.Now().Add(c.timeout()))
	sent := make([]byte, size)
	rand.Read(sent)
	var writing sync.WaitGroup
	var writeErr error
	writing.Go(func() { _, writeErr = tunnel.Write(sent) })
	defer writing.Wait()
	got := make([]byte, size)
	if _, err := io.ReadFull(tunnel, got); err != nil {
		tunnel.Close()
		return err
	}
	if !bytes.Equal(sent, got) {
		return errors.New("other bytes come back")
	}
	writing.Wait()
	return writeErr
}

// halfClose ends one direction, and waits for what the far end still sends.
func (c *checker) halfClose(ctx context.Context) Finding {
	if c.e.far == nil {
		return Finding{Detail: needsFar}
	}
	var passes, lost []string
	for _, carrier := range allCarriers {
		if !c.e.opens(carrier) {
			continue
		}
		if err := c.closeHalf(ctx, carrier); err != nil {
			lost = append(lost, string(carrier))
		} else {
			passes = append(passes, string(carrier))
		}
	}
	f := Finding{OK: len(lost) == 0, Detail: "the end of one direction passes by " + strings.Join(passes, ", ")}
	if len(lost) > 0 {
		f.Detail = "the end of one direction does not pass by " + strings.Join(lost, ", ")
		if len(passes) > 0 {
			f.Detail += "; it passes by " + strings.Join(passes, ", ")
		}
		f.Change = "use --carrier framed, which sends the end as a message: no proxy can lose it"
	}
	return f
}

func (c *checker) closeHalf(ctx context.Context, carrier preflight.Carrier) error {
	tunnel, err := c.dialTunnel(ctx, carrier)
	if err != nil {
		return err
	}
	defer tunnel.Close()
	tunnel.SetDeadline(time.Now().Add(c.timeout()))
	const text = "before the end"
	if _, err := io.WriteString(tunnel, text); err != nil {
		return err
	}
	if err := tunnel.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(tunnel)
	if err == nil && string(got) != text {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// idle opens two tunnels, one of which is silent, and waits for their ends. If the silent one
// ends alone, there is a limit for silence. If both end, there is one for the age.
func (c *checker) idle(ctx context.Context) Finding {
	quiet := preflight.CarrierUpgrade // nothing but the application sends anything in it
	if !c.e.opens(quiet) {
		return Finding{OK: true, Detail: "only framed tunnels and WebSocket pass, and their PINGs keep them alive"}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Idle)
	defer cancel()
	begin := time.Now()
	silentOne, err := c.dialTunnel(ctx, quiet)
	if err != nil {
		return Finding{Detail: plainError(err)}
	}
	defer silentOne.Close()
	busy, err := c.busyTunnel(ctx)
	if err != nil {
		return Finding{Detail: plainError(err)}
	}
	defer busy.Close()
	silentEnds, busyEnds := watch(silentOne), watch(busy)
	var silentFor time.Duration
	select {
	case <-silentEnds:
		silentFor = time.Since(begin)
	case <-ctx.Done():
		return Finding{OK: true, Detail: fmt.Sprintf("a silent tunnel is open after %v", c.Idle)}
	}
	select {
	case <-busyEnds:
		return Finding{
			Detail: fmt.Sprintf("a silent and a busy tunnel both end after %v: a limit for the age of a connection, or the server ends them", round(silentFor)),
			Change: "raise the limit for the age (nginx `keepalive_time`, Envoy `max_connection_duration`, a balancer's own), or let clients dial anew",
		}
	case <-time.After(min(time.Second, c.Idle)):
	}
	f := Finding{
		Detail: fmt.Sprintf("a silent tunnel ends after %v, and a busy one does not: a limit for silence", round(silentFor)),
		Change: c.e.idleChange(),
	}
	if silentFor > pingPeriod {
		f.Change += "; or use --carrier framed, whose PINGs every 20 s keep a tunnel alive"
	}
	return f
}

// idleChange says where the limit for silence may be: at each proxy on the way, or at one that
// does not show itself.
func (e *evidence) idleChange() string {
	var texts []string
	for _, p := range e.way() {
		texts = append(texts, string(p)+" "+cmp.Or(e.words(p).idle, unnamed.idle))
	}
	if len(texts) == 0 {
		return "raise the timeout for silence of a proxy on the way, or of the server"
	}
	if len(texts) > 1 {
		return "raise the one that has this value: " + strings.Join(texts, ", or ")
	}
	return "raise it: " + texts[0]
}

// pingPeriod is that of a framed tunnel, by default.
const pingPeriod = 20 * time.Second

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

// busyTunnel opens a tunnel in which something moves twice a second.
func (c *checker) busyTunnel(ctx context.Context) (*preflight.Conn, error) {
	carrier := preflight.CarrierFramed
	if !c.e.opens(carrier) {
		carrier = preflight.CarrierWebSocket
	}
	copied := *c.Dialer
	copied.KeepAlivePeriod, copied.MaxIdleTimeout = 500*time.Millisecond, 0
	busy := *c
	target := *c.Target
	target.Dialer = &copied
	busy.Target = &target
	return busy.dialTunnel(ctx, carrier)
}

// watch returns a channel that is closed when the tunnel ends.
func watch(tunnel *preflight.Conn) <-chan struct{} {
	end := make(chan struct{})
	go func() {
		defer close(end)
		io.Copy(io.Discard, tunnel)
	}()
	return end
}
