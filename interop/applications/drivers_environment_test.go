package applications

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// children are programs that the test binary runs instead of the tests. Each needs an
// environment of its own, because a process reads HTTPS_PROXY only once.
var children = map[string]func() error{
	"grpc": func() error { return childCall() },
	"grpc-preflight": func() error {
		return childCall(childDialer(&preflight.PreflightDialer{Proxy: http.ProxyFromEnvironment}))
	},
	"grpc-without": func() error { return childCall(childDialer(new(preflight.PreflightDialer))) },
}

// These variables name the child, and the target of its call.
const childVariable, targetVariable = "PREFLIGHT_CHILD", "PREFLIGHT_TARGET"

// runChild runs a child and exits, if the environment names one.
func runChild() {
	run, ok := children[os.Getenv(childVariable)]
	if !ok {
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// childDialer returns the option of a client that dials with d.
func childDialer(d *preflight.PreflightDialer) grpc.DialOption {
	d.Path = "/client/grpc"
	return grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", address)
	})
}

// childCall calls Who, and prints the answer.
func childCall(options ...grpc.DialOption) error {
	ctx, cancel := context.WithTimeout(context.Background(), lab.Timeout)
	defer cancel()
	c, err := grpc.NewClient("passthrough:///"+os.Getenv(targetVariable),
		append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return err
	}
	defer c.Close()
	var answer wrapperspb.StringValue
	if err := c.Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), &answer); err != nil {
		return err
	}
	fmt.Println(answer.Value)
	return nil
}

// TestHTTPSProxyFromEnvironment has a network in which HTTPS_PROXY is the only way out. gRPC
// reads that variable, but not if it gets a dialer. With Proxy set to
// http.ProxyFromEnvironment, the dialer reads it, with TLS and without.
func TestHTTPSProxyFromEnvironment(t *testing.T) {
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	lab.ServeGRPC(t, "the server", l)
	edge := lab.StartNginx(t, l.Addr().String())
	// Only Squid can resolve the name of the edge. For localhost, no proxy would be used.
	const name = "edge.example"
	hosts := filepath.Join(t.TempDir(), "hosts")
	require.NoError(t, os.WriteFile(hosts, []byte("127.0.0.1 "+name+"\n"), 0o644))
	require.NoError(t, os.Chmod(filepath.Dir(filepath.Dir(hosts)), 0o755)) // Squid runs as another user
	toEdge, toServer := lab.Port(edge.Plain.Address), lab.Port(l.Addr().String())
	squid := lab.StartForwardSquid(t, lab.ForwardConfig{AllowedPorts: []string{toEdge, toServer}, HostsFile: hosts})
	run := func(child, port string) (string, error) {
		command := exec.CommandContext(t.Context(), os.Args[0])
		command.Env = []string{childVariable + "=" + child, targetVariable + "=" + name + ":" + port, "HTTPS_PROXY=" + squid.String()}
		output, err := command.CombinedOutput()
		return string(output), err
	}

	output, err := run("grpc", toServer) // plain gRPC, without nginx
	require.NoError(t, err, output)
	require.True(t, strings.HasPrefix(output, "the server to "), output)
	output, err = run("grpc-preflight", toEdge)
	require.NoError(t, err, output)
	require.True(t, strings.HasPrefix(output, "the server to "), output)

	output, err = run("grpc-without", toEdge)
	require.Error(t, err)
	require.Contains(t, output, "lookup "+name, "it uses no proxy, and cannot resolve the name")
}
