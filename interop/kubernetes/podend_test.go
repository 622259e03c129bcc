//go:build cluster

package kubernetes

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

var (
	moved = flag.Int("move", 200, "how many open tunnels TestCluster/envoygateway/end moves to another pod; each takes two descriptors of Envoy")
	delay = flag.Duration("delay", 0, "the clients of these tunnels wait a random time up to this before they dial again")
)

// testPodEnd plays the end of one of two pods, as the controllers and the kubelet do it. A
// hundred clients go on working: they open tunnels, exchange messages and close them. Other
// tunnels stay open. Only those of them that are on the pod when its grace period ends may
// fail, and no message and no handshake may arrive twice.
//
// With preStop the pod accepts tunnels until the gateway has heard of its end. Without it,
// the gateway still sends some there, and these are refused with 503.
func testPodEnd(t *testing.T, c *cluster, preStop bool) {
	log := newMessageLog()
	ending, staying := startPod(t, podAddresses[0], log), startPod(t, podAddresses[1], log)
	// The tunnels that stay open are all on the pod that will end.
	c.api.apply(t, endpoints("default", podAddresses[0]))
	lab.WaitUntil(t, "the pod gets tunnels", func() bool {
		client, err := openClient(c, log, c.dialer(true))
		return err == nil && client.tunnel.Close() == nil && client.pod == podAddresses[0]
	})
	lasting := openClients(t, c, log, *moved, c.dialer(true, preflight.CarrierUpgrade))
	for _, client := range lasting {
		require.Equal(t, podAddresses[0], client.pod)
	}
	// The clients start when the gateway knows both pods.
	c.api.apply(t, endpoints("default", podAddresses...))
	lab.WaitUntil(t, "the other pod gets tunnels", func() bool {
		client, err := openClient(c, log, c.dialer(true))
		require.NoError(t, err)
		return errors.Join(client.say(log), client.tunnel.Close()) == nil && client.pod == podAddresses[1]
	})

	var working sync.WaitGroup
	work, stop := context.WithCancel(t.Context())
	defer func() { stop(); working.Wait() }()
	var rounds, refused atomic.Int64
	for i := range 100 {
		working.Go(func() {
			d := c.dialer(i%2 == 0, allCarriers[i%3])
			for work.Err() == nil {
				waitToDial(min(*delay, time.Second))
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
	// The kubelet: SIGTERM. The server calls Shutdown.
	ending.signal(t, syscall.SIGTERM)
	forEach(t, lasting, func(i int) error { return lasting[i].say(log) }) // open tunnels live on
	lab.WaitUntil(t, "the working clients leave the pod", func() bool { return ending.open.Load() == int64(len(lasting)) })
	before := rounds.Load()
	lab.WaitUntil(t, "the clients work on", func() bool { return rounds.Load() > before+200 })
	// The end of the grace period.
	envoy := findProcess(t, "envoy")
	begin, used := time.Now(), cpuTime(t, envoy)
	before = rounds.Load()
	ending.signal(t, syscall.SIGKILL)
	c.api.apply(t, endpoints("default", podAddresses[1]))

	// The tunnels that were cut move to the other pod.
	var moving sync.WaitGroup
	failures := make(chan error, len(lasting))
	for i, client := range lasting {
		moving.Go(func() {
			if _, err := client.lines.ReadString('\n'); err == nil {
				failures <- errors.New("a tunnel to a killed pod lives on")
				return
			}
			client.tunnel.Close()
			waitToDial(*delay)
			client, err := openClient(c, log, c.dialer(true, preflight.CarrierUpgrade))
			if err == nil {
				err = client.say(log)
			}
			if err != nil {
				failures <- err
			}
			lasting[i] = client
		})
	}
	moving.Wait()
	t.Logf("%d open tunnels moved in %v; meanwhile %d others were used, and Envoy used %v of CPU; before, %d dials were refused",
		len(lasting), time.Since(begin), rounds.Load()-before, cpuTime(t, envoy)-used, refused.Load())
	stop()
	working.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	if t.Failed() {
		return
	}
	require.ErrorContains(t, ending.wait(t), "signal: killed", "Shutdown waits for the tunnels")
	for _, client := range lasting {
		require.Equal(t, podAddresses[1], client.pod)
		require.NoError(t, client.tunnel.Close())
	}
	staying.signal(t, syscall.SIGTERM)
	require.NoError(t, staying.wait(t), "Shutdown returns when all tunnels are closed")
	require.Empty(t, log.wrong(), "lost or doubled")
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

// openClients opens n tunnels.
func openClients(t *testing.T, c *cluster, log *messageLog, n int, d *preflight.PreflightDialer) []*podClient {
	t.Helper()
	clients := make([]*podClient, n)
	forEach(t, clients, func(i int) (err error) {
		clients[i], err = openClient(c, log, d)
		return err
	})
	return clients
}

// forEach calls f for each client, for a few at a time.
func forEach(t *testing.T, clients []*podClient, f func(i int) error) {
	t.Helper()
	errs := make([]error, len(clients))
	var running sync.WaitGroup
	const parallel = 16
	for first := range parallel {
		running.Go(func() {
			for i := first; i < len(clients); i += parallel {
				errs[i] = f(i)
			}
		})
	}
	running.Wait()
	require.NoError(t, errors.Join(errs...))
}

// waitToDial waits a random time up to longest, as docs/kubernetes-scale.md recommends.
func waitToDial(longest time.Duration) {
	if longest > 0 {
		time.Sleep(rand.N(longest))
	}
}

// openClient opens a tunnel, and reads which pod it is at.
func openClient(c *cluster, log *messageLog, d *preflight.PreflightDialer) (*podClient, error) {
	name := log.name("tunnel")
	one := *d
	one.NetDialer = nil // the kernel can use ports in TIME_WAIT again only if the client does not bind
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
