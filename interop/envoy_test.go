package interop

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

var envoy = proxy{
	name:  "envoy",
	file:  envoyFile,
	start: startEnvoy,
	idle:  []string{"idle_timeout: 3600s", "idle_timeout: 1s"},
	mistakes: []mistake{
		{[]string{"- upgrade_type: tcp\n", ""}, []string{"upgrade_configs"}},
	},
	outcomes: map[string]string{
		"Down":          "503",
		"Misconfigured": "403",
	},
}

const envoyFile = "envoy/envoy.yaml"

func startEnvoy(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	config, base := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "base-id")
	configure := func(addresses []string, backend string) {
		at := func(address string) string {
			host, port, _ := strings.Cut(address, ":")
			return "{ address: " + host + ", port_value: " + port + " }"
		}
		write(t, dir, "envoy.yaml", deployed(t, envoyFile, slices.Concat(edits, []string{
			"{ address: 0.0.0.0, port_value: 80 }", at(addresses[0]),
			"{ address: 0.0.0.0, port_value: 443 }", at(addresses[1]),
			"{ address: 127.0.0.1, port_value: 9007 }", at(backend),
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			// Two of the lab must never have the same port.
			"- name: plain\n", "- name: plain\n      enable_reuse_port: false\n",
			"- name: secure\n", "- name: secure\n      enable_reuse_port: false\n",
		})...))
	}
	// Envoy leaves behind what the processes before and after a hot restart share.
	removeShared := func(t *testing.T) {
		if id, err := os.ReadFile(base); err == nil {
			require.NoError(t, os.Remove("/dev/shm/envoy_shared_memory_"+string(id)+"0"))
			require.NoError(t, os.Remove(base))
		}
	}
	t.Cleanup(func() { removeShared(t) })
	binary := findBinary(t, "envoy")
	args := []string{"-c", config, "--base-id-path", base}
	d := launch(t, dir, 2, binary, func(addresses []string) []string {
		removeShared(t) // of an attempt that found its ports taken
		configure(addresses, backend)
		return append(args, "--use-dynamic-base-id")
	}, func() bool {
		return logged(t, dir, "starting main dispatch loop") // once both ports are its own
	})
	return &running{
		plain: front{address: d.addresses[0]},
		tls:   front{address: d.addresses[1], roots: roots},
		reload: func(backend string) {
			// Envoy reads its file once. To change it is to start a second process,
			// which takes the ports over from the first.
			configure(d.addresses, backend)
			id, err := os.ReadFile(base)
			require.NoError(t, err)
			process, log := run(t, t.TempDir(), binary, append(args, "--base-id", string(id), "--restart-epoch", "1"), func() bool { return true })
			require.NotNil(t, process, log)
		},
		restart: func(t *testing.T) {
			removeShared(t)
			d.restart(t)
		},
	}
}

// What a client has written may not all have been read by Envoy when it closes:
// without TLS, Envoy then drops the rest. When it is, nothing is lost, so there
// are several attempts.
func TestEnvoyClose(t *testing.T) {
	const size, attempts = 16 << 20, 20
	received := make(chan int, attempts)
	e := startEnvoy(t, serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) {
		total, block := 0, make([]byte, 512) // for a server that is slower than Envoy
		for {
			n, err := c.Read(block)
			total += n
			if err != nil {
				received <- total
				return
			}
		}
	}))
	for range attempts {
		c := e.plain.dial(t, "/client/")
		_, err := c.Write(make([]byte, size))
		require.NoError(t, errors.Join(err, c.Close()))
		if awaited(t, received) < size {
			return
		}
	}
	require.Fail(t, "everything has arrived, each time")
}
