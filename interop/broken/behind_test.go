package broken

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// idlePaths work, but their proxy ends a tunnel after a second of silence.
var idlePaths = []brokenPath{
	{name: "nginx", program: "nginx", site: "location / { proxy_read_timeout 1s; proxy_pass http://{good}; " + upgrades + "}"},
	{name: "HAProxy", program: "HAProxy", site: "timeout tunnel 1s\nserver s {good}"},
	{name: "Envoy", program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "good", ", idle_timeout: 1s")},
	{name: "nginx behind HAProxy", program: "HAProxy", site: "timeout tunnel 1h\nserver s {at nginx}"},
}

// TestIdle lets proxies end silent tunnels. A framed tunnel tells that it was cut, and after
// how much silence. Without framing there is nothing that could tell it from an orderly end.
func TestIdle(t *testing.T) {
	k := startKit(t, idlePaths)
	for _, p := range idlePaths {
		for _, carrier := range []preflight.Carrier{preflight.CarrierFramed, preflight.CarrierUpgrade} {
			t.Run(p.name+"/"+string(carrier), func(t *testing.T) {
				d := &preflight.PreflightDialer{Path: path, Carriers: []preflight.Carrier{carrier}, KeepAlivePeriod: -1, HandshakeTimeout: lab.Timeout}
				c, err := d.DialContext(t.Context(), "tcp", k.sites[p.name])
				require.NoError(t, err)
				defer c.Close()
				_, err = c.Read(make([]byte, 1))
				t.Log(err)
				if carrier == preflight.CarrierUpgrade {
					require.Equal(t, io.EOF, err)
					return
				}
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
				require.ErrorContains(t, err, "silence")
				var e *net.OpError
				require.ErrorAs(t, err, &e)
			})
		}
	}
}

// TestRPC shows that the error of an RPC has the text of the dial.
func TestRPC(t *testing.T) {
	var chosen []brokenPath
	for _, p := range paths {
		if p.usual && p.dial == nil && p.code != "" && !p.again {
			chosen = append(chosen, p)
		}
	}
	require.GreaterOrEqual(t, len(chosen), 10)
	k := startKit(t, chosen)
	for _, p := range chosen {
		t.Run(p.name, func(t *testing.T) {
			d := &preflight.PreflightDialer{Path: path}
			c := lab.DialGRPC(t, d, k.sites[p.name])
			ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
			defer cancel()
			err := c.Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), new(wrapperspb.StringValue))
			require.Equal(t, codes.Unavailable, status.Code(err))
			_, dial := d.DialContext(ctx, "tcp", k.sites[p.name])
			require.Error(t, dial)
			text, _, _ := strings.Cut(dial.Error(), "; and by carrier ")
			require.ErrorContains(t, err, text)
		})
	}
}
