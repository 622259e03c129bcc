package proxies

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// TestPasted gives a nginx that passes WebSocket alone the lines that "preflight check" prints for
// it. Then tcp passes too, and a client still cannot forge its address.
func TestPasted(t *testing.T) {
	proxy := printedProxies[slices.IndexFunc(printedProxies, func(p printedProxy) bool { return p.product == "nginx" })]
	p := printing{t: t, proxy: proxy, program: lab.BuildCommand(t), dir: t.TempDir()}
	p.flags = []string{"--path", "/", "--carrier", "websocket"}
	p.roots = lab.WriteCertificate(t, p.dir)
	p.backend = lab.Serve(t, &preflight.PreflightListener{
		RequireUpgrade:   true,
		TrustedProxies:   []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		ClientAddrHeader: "X-Forwarded-For",
	}, func(c *preflight.Conn) { fmt.Fprintln(c, c.RemoteAddr(), c.Request().Host) })
	d := proxy.run(t, p)

	var report struct {
		Works   bool
		Verdict struct {
			Certainty, Change string
			Config            []string
		}
	}
	// The exit code is 0, because WebSocket opens.
	text, err := exec.CommandContext(t.Context(), p.program, "check", "--json", "http://"+d.Addresses[0]+"/").Output()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &report))
	require.True(t, report.Works)
	require.Equal(t, "likely", report.Verdict.Certainty)
	require.Contains(t, report.Verdict.Change, "`map` of `$http_upgrade`")

	// arrives opens a tunnel with a forged address, and returns the address that the server
	// sees. The true address does not belong to a trusted proxy.
	arrives := func(carrier preflight.Carrier) (string, error) {
		f := lab.Frontend{Address: d.Addresses[0]}.Dialer()
		f.Carriers, f.Path = []preflight.Carrier{carrier}, "/"
		f.NetDialer = &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
		f.Host, f.Header = "edge.example", http.Header{"X-Forwarded-For": {"203.0.113.9"}}
		c, err := f.DialContext(t.Context(), "tcp", d.Addresses[0])
		if err != nil {
			return "", err
		}
		return bufio.NewReader(lab.WithDeadline(t, c)).ReadString('\n')
	}
	const truth = "127.0.0.2:0 edge.example\n"
	line, err := arrives(preflight.CarrierWebSocket)
	require.NoError(t, err)
	require.Equal(t, truth, line)

	location := "location / {\n"
	p.write(d.Addresses, "preflight.conf", location, location+strings.Join(report.Verdict.Config, "\n")+"\n")
	d.Signal(t, syscall.SIGHUP)
	lab.WaitUntil(t, "the lines count", func() bool {
		line, err = arrives(preflight.CarrierUpgrade)
		return err == nil
	})
	require.Equal(t, truth, line)
}
