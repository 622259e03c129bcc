package interop

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
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// children are programs that this one runs as, in place of the tests, with an
// environment of their own: a process reads HTTPS_PROXY once.
var children = map[string]func() error{
	"grpc": func() error { return childCall() },
	"grpc-preflight": func() error {
		return childCall(childDialer(&preflight.PreflightDialer{Proxy: http.ProxyFromEnvironment}))
	},
	"grpc-without": func() error { return childCall(childDialer(new(preflight.PreflightDialer))) },
}

// These say which of them, and what it is to call.
const childName, childTarget = "PREFLIGHT_CHILD", "PREFLIGHT_TARGET"

// runChild runs as one of the children, and ends, if it is one.
func runChild() {
	run, ok := children[os.Getenv(childName)]
	if !ok {
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func childDialer(d *preflight.PreflightDialer) grpc.DialOption {
	d.Path = "/client/grpc"
	return grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", address)
	})
}

// childCall calls grpcWho, and prints the answer.
func childCall(options ...grpc.DialOption) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := grpc.NewClient("passthrough:///"+os.Getenv(childTarget),
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

// In a network that has HTTPS_PROXY and no other way out, gRPC finds its way. With
// a dialer of one's own it no longer asks the environment; with Proxy set to
// http.ProxyFromEnvironment the dialer does, whether there is TLS or not.
func TestHTTPSProxyFromEnvironment(t *testing.T) {
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	grpcServe(t, "the server", l)
	edge := startNginx(t, l.Addr().String())
	// Squid alone knows the name of the edge. No proxy is asked for localhost.
	const name = "edge.example"
	hosts := filepath.Join(t.TempDir(), "hosts")
	require.NoError(t, os.WriteFile(hosts, []byte("127.0.0.1 "+name+"\n"), 0o644))
	require.NoError(t, os.Chmod(filepath.Dir(filepath.Dir(hosts)), 0o755)) // Squid is another user
	toEdge, toServer := outPort(edge.plain.address), outPort(l.Addr().String())
	squid := outStartSquid(t, outConfig{allowed: []string{toEdge, toServer}, hosts: hosts})
	run := func(child, port string) (string, error) {
		command := exec.CommandContext(t.Context(), os.Args[0])
		command.Env = []string{childName + "=" + child, childTarget + "=" + name + ":" + port, "HTTPS_PROXY=" + squid.String()}
		output, err := command.CombinedOutput()
		return string(output), err
	}

	output, err := run("grpc", toServer) // straight to the server: that is plain gRPC
	require.NoError(t, err, output)
	require.True(t, strings.HasPrefix(output, "the server to "), output)
	output, err = run("grpc-preflight", toEdge)
	require.NoError(t, err, output)
	require.True(t, strings.HasPrefix(output, "the server to "), output)

	output, err = run("grpc-without", toEdge)
	require.Error(t, err)
	require.Contains(t, output, "lookup "+name, "it asks for no proxy, and does not know the name")
}
