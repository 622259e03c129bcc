//go:build cluster

package kubernetes

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// podVariable is set in the process of a pod. Its value is the address of the pod.
const podVariable = "PREFLIGHT_POD"

// A podProcess is a server in a process of its own. So a pod has its own limit of
// descriptors, and the test ends it as the kubelet does: by SIGTERM and SIGKILL.
type podProcess struct {
	process *os.Process
	open    atomic.Int64 // how many tunnels are open
	ended   chan error   // receives what Wait returns
}

// startPod runs this program again as a pod. log gets the names of the tunnels and the
// messages that arrive there.
func startPod(t *testing.T, address string, log *messageLog) *podProcess {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command(program, "-test.run=^TestCluster$")
	cmd.Env = append(os.Environ(), podVariable+"="+address)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.ExtraFiles = []*os.File{writer}
	require.NoError(t, cmd.Start())
	writer.Close()
	p := &podProcess{process: cmd.Process, ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for events := bufio.NewScanner(reader); events.Scan(); {
			switch event, name := events.Text()[0], events.Text()[1:]; event {
			case podOpened:
				p.open.Add(1)
				log.count(log.got, name)
			case podClosed:
				p.open.Add(-1)
			case podGot:
				log.count(log.got, name)
			}
		}
		reader.Close()
		p.ended <- cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
	})
	lab.WaitUntil(t, "the pod listens", func() bool { return lab.Accept(address + ":9007") })
	return p
}

func (p *podProcess) signal(t *testing.T, s os.Signal) {
	t.Helper()
	require.NoError(t, p.process.Signal(s))
}

// wait waits for the end of the process. All that it has told is in the log then.
func (p *podProcess) wait(t *testing.T) error {
	t.Helper()
	return lab.Receive(t, p.ended)
}

// A pod tells each event in a line: one of these bytes, and the name of the tunnel or of the
// message.
const (
	podOpened = '+'
	podClosed = '-'
	podGot    = '='
)

// runPod is the process of a pod. On SIGTERM it calls Shutdown, and ends when all tunnels
// are closed.
func runPod(t *testing.T, address string) {
	events := os.NewFile(3, "events")
	// One call of write, so lines do not mix, and what is told survives SIGKILL.
	tell := func(event byte, name string) { fmt.Fprintf(events, "%c%s\n", event, name) }
	terminate, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	l := newListener(t, address)
	drained := make(chan error, 1)
	go func() {
		<-terminate.Done()
		drained <- l.Shutdown(context.Background())
	}()
	var handlers sync.WaitGroup
	for {
		accepted, err := l.Accept()
		if err != nil {
			break // after Shutdown
		}
		conn := accepted.(*preflight.Conn)
		name := conn.Request().Header.Get("X-Tunnel")
		tell(podOpened, name)
		handlers.Go(func() {
			defer tell(podClosed, name)
			defer conn.Close()
			// The pod says who it is, and answers each line with the line.
			if _, err := fmt.Fprintln(conn, address); err != nil {
				return
			}
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				tell(podGot, lines.Text())
				if _, err := fmt.Fprintf(conn, "%s\r\n", lines.Text()); err != nil {
					return
				}
			}
		})
	}
	handlers.Wait()
	require.NoError(t, <-drained)
}
