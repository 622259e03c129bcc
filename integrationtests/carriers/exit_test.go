package carriers_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// closesAndExits is an environment variable: the address for TestCloseAndExit in the process
// that closes a tunnel and exits.
const closesAndExits = "PREFLIGHT_CLOSE_AND_EXIT"

// The peer of a program that exits right after Close reads everything and the end of the
// stream, as it does with TCP.
func TestCloseAndExit(t *testing.T) {
	message := bytes.Repeat([]byte("0123456789"), 5_000)
	if address := os.Getenv(closesAndExits); address != "" {
		d := preflight.PreflightDialer{Carriers: []preflight.Carrier{preflight.Carrier(os.Getenv("CARRIER"))}}
		if os.Getenv("TLS") != "" {
			d.TLSConfig = &tls.Config{InsecureSkipVerify: true}
		}
		conn, err := d.Dial("tcp", address)
		require.NoError(t, err)
		_, err = conn.Write(message)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		os.Exit(0)
	}
	server, _ := testkit.NamedTLSConfigs(t)
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		for layer, env := range map[string]string{"TCP": "", "TLS": "TLS=1"} {
			t.Run(layer, func(t *testing.T) {
				l := testkit.ListenTCP(t)
				if env != "" {
					l = tls.NewListener(l, server)
				}
				accepted := testkit.AcceptAll(t, testkit.Listen(t, &preflight.PreflightListener{Listener: l}))
				for range 5 {
					client := exec.Command(os.Args[0], "-test.run=^TestCloseAndExit$", "-test.count=1")
					client.Env = append(os.Environ(), closesAndExits+"="+l.Addr().String(), "CARRIER="+string(carrier), env,
						"GORACE=atexit_sleep_ms=0") // or the race detector lets the process live for another second
					var output bytes.Buffer
					client.Stdout, client.Stderr = &output, &output
					require.NoError(t, client.Start())
					conn := testkit.NextConn(t, accepted)
					got, err := io.ReadAll(net.Conn(conn))
					require.NoError(t, err)
					require.Equal(t, message, got)
					require.NoError(t, client.Wait(), "%s", &output)
					conn.Close()
				}
			})
		}
	})
}
