//go:build cluster

package kubernetes

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

var moved = flag.Int("move", 100, "how many open tunnels TestCluster/envoygateway/end moves to another pod; each takes two descriptors")

// testPodEnd plays the end of one of two pods, as the controllers and the kubelet do it. A
// hundred clients go on working: they open tunnels, exchange messages and close them. Other
// tunnels stay open. Only those of them that are on the pod when its grace period ends may
// fail, and no message and no handshake may arrive twice.
//
// With preStop the pod accepts tunnels until the gateway has heard of its end. Without it,
// the gateway still sends some there, and these are refused with 503.
func testPodEnd(t *testing.T, c *cluster, preStop bool) {
	log := newMessageLog()
	ending, staying := startLoggingPod(t, podAddresses[0], log), startLoggingPod(t, podAddresses[1], log)
	// The tunnels that stay open are all on the pod that will end.
	c.api.apply(t, endpoints("default", podAddresses[0]))
	lab.WaitUntil(t, "the pod gets tunnels", func() bool {
		client, err := openClient(c, log, c.dialer(true))
		return err == nil && client.tunnel.Close() == nil && client.pod == podAddresses[0]
	})
	var lasting []*podClient
	for range *moved {
		client, err := openClient(c, log, c.dialer(false, preflight.CarrierUpgrade))
		require.NoError(t, err)
		require.Equal(t, podAddresses[0], client.pod)
		lasting = append(lasting, client)
	}
	// The clients start when the gateway knows both pods.
	c.api.apply(t, endpoints("default", podAddresses...))
	lab.WaitUntil(t, "the other pod gets tunnels", func() bool {
		client, err := openClient(c, log, c.dialer(true))
		require.NoError(t, err)
		return errors.Join(client.say(log), client.tunnel.Close()) == nil && client.pod == podAddresses[1]
	})

	var working sync.WaitGroup
	stop := make(chan struct{})
	var rounds, refused atomic.Int64
	for i := range 100 {
		working.Go(func() {
			d := c.dialer(i%2 == 0, allCarriers[i%3])
			for {
				select {
				case <-stop:
					return
				default:
				}
				client, err := openClient(c, log, d)
				var status *preflight.StatusError
				if errors.As(err, &status) && status.Temporary() && !preStop {
					refused.Add(1)
					continue // dial again
				}
				if err == nil {
					for range 5 {
						err = errors.Join(err, client.say(log))
					}
					err = errors.Join(err, client.tunnel.Close())
				}
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				rounds.Add(1)
			}
		})
	}

	// The controllers: the pod gets no new tunnels.
	c.api.apply(t, endpoints("default", podAddresses[1])+
		fmt.Sprintf("- {addresses: [%s], conditions: {ready: false, serving: true, terminating: true}}\n", podAddresses[0]))
	if preStop {
		// The kubelet: preStop. The gateway hears of the end.
		lab.WaitUntil(t, "the gateway sends no tunnels to the pod", func() bool {
			for range 20 {
				client, err := openClient(c, log, c.dialer(true))
				require.NoError(t, err)
				require.NoError(t, client.tunnel.Close())
				if client.pod == podAddresses[0] {
					return false
				}
			}
			return true
		})
	}
	// The kubelet: SIGTERM. The server calls Shutdown with what is left of the grace period.
	grace, end := context.WithCancel(t.Context())
	defer end()
	drained := make(chan error, 1)
	go func() { drained <- ending.listener.Shutdown(grace) }()
	for _, client := range lasting {
		require.NoError(t, client.say(log), "tunnels that are open live on")
	}
	lab.WaitUntil(t, "the working clients leave the pod", func() bool { return ending.open() == len(lasting) })
	before := rounds.Load()
	lab.WaitUntil(t, "the clients work on", func() bool { return rounds.Load() > before+200 })
	// The end of the grace period, and SIGKILL.
	end()
	require.ErrorIs(t, lab.Receive(t, drained), context.Canceled)
	begin := time.Now()
	ending.kill()
	c.api.apply(t, endpoints("default", podAddresses[1]))

	// The tunnels that were cut move to the other pod.
	var moving sync.WaitGroup
	failures := make(chan error, len(lasting))
	for i, client := range lasting {
		moving.Go(func() {
			_, err := client.lines.ReadString('\n')
			if err == nil {
				failures <- errors.New("a tunnel to a killed pod lives on")
				return
			}
			if lasting[i], err = openClient(c, log, c.dialer(false, preflight.CarrierUpgrade)); err == nil {
				err = lasting[i].say(log)
			}
			if err != nil {
				failures <- err
			}
		})
	}
	moving.Wait()
	t.Logf("%d open tunnels moved in %v; meanwhile %d others were used, and %d dials were refused", len(lasting), time.Since(begin), rounds.Load(), refused.Load())
	close(stop)
	working.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	for _, client := range lasting {
		require.Equal(t, podAddresses[1], client.pod)
		require.NoError(t, client.tunnel.Close())
	}
	require.Empty(t, log.wrong(), "lost or doubled")
	staying.shutdown(t)
}

// A messageLog counts what the pods got, and what the clients had answered.
type messageLog struct {
	mu            sync.Mutex
	got, answered map[string]int
	next          int
}

func newMessageLog() *messageLog {
	return &messageLog{got: make(map[string]int), answered: make(map[string]int)}
}

// name returns a new name for a message or a tunnel.
func (l *messageLog) name(kind string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	return fmt.Sprintf("%s-%d", kind, l.next)
}

func (l *messageLog) count(m map[string]int, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m[name]++
}

// wrong returns what arrived twice, and what was answered but did not arrive.
func (l *messageLog) wrong() (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, n := range l.got {
		if n > 1 {
			names = append(names, name)
		}
	}
	for name := range l.answered {
		if l.got[name] != 1 {
			names = append(names, name)
		}
	}
	return names
}

// A podClient is a client with an open tunnel.
type podClient struct {
	tunnel *preflight.Conn
	lines  *bufio.Reader
	pod    string
}

// openClient opens a tunnel, and reads which pod it is at.
func openClient(c *cluster, log *messageLog, d *preflight.PreflightDialer) (*podClient, error) {
	name := log.name("tunnel")
	one := *d
	one.Header = http.Header{"X-Tunnel": {name}}
	ctx, cancel := context.WithTimeout(context.Background(), lab.Timeout)
	defer cancel()
	address := c.plain
	if d.TLSConfig != nil {
		address = c.secure
	}
	tunnel, err := one.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	log.count(log.answered, name)
	client := &podClient{tunnel: tunnel.(*preflight.Conn), lines: bufio.NewReader(tunnel)}
	pod, err := client.lines.ReadString('\n')
	client.pod = strings.TrimSpace(pod)
	return client, err
}

// say sends a message, and reads its answer.
func (c *podClient) say(log *messageLog) error {
	name := log.name("message")
	if err := lab.ExchangeLine(c.tunnel, c.lines, name, name); err != nil {
		return err
	}
	log.count(log.answered, name)
	return nil
}

// A loggingPod is a server that logs what it gets, and that can be killed.
type loggingPod struct {
	listener *preflight.PreflightListener
	handlers sync.WaitGroup
	mu       sync.Mutex
	conns    []*preflight.Conn
}

func startLoggingPod(t *testing.T, address string, log *messageLog) *loggingPod {
	t.Helper()
	p := &loggingPod{listener: newListener(t, address)}
	p.handlers.Go(func() {
		for {
			accepted, err := p.listener.Accept()
			if err != nil {
				return
			}
			conn := accepted.(*preflight.Conn)
			log.count(log.got, conn.Request().Header.Get("X-Tunnel"))
			p.mu.Lock()
			p.conns = append(p.conns, conn)
			p.mu.Unlock()
			p.handlers.Go(func() {
				p.serve(conn, address, log)
				conn.Close()
				p.mu.Lock()
				defer p.mu.Unlock()
				p.conns = slices.DeleteFunc(p.conns, func(c *preflight.Conn) bool { return c == conn })
			})
		}
	})
	t.Cleanup(func() { p.kill(); p.handlers.Wait() })
	return p
}

// serve tells who it is, and answers each line with the line.
func (p *loggingPod) serve(conn *preflight.Conn, address string, log *messageLog) {
	if _, err := fmt.Fprintln(conn, address); err != nil {
		return
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		log.count(log.got, lines.Text())
		if _, err := fmt.Fprintf(conn, "%s\r\n", lines.Text()); err != nil {
			return
		}
	}
}

// open returns how many tunnels are open.
func (p *loggingPod) open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// kill ends all connections as the kernel does after SIGKILL.
func (p *loggingPod) kill() {
	p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		conn.NetConn().Close()
	}
}

// shutdown ends the pod in order.
func (p *loggingPod) shutdown(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.Timeout)
	defer cancel()
	require.NoError(t, p.listener.Shutdown(ctx))
}
