//go:build cluster

package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

var allCarriers = []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket}

// waitForTunnels waits until the gateway has the configuration, and a tunnel opens.
func waitForTunnels(t *testing.T, c *cluster, d *preflight.PreflightDialer) {
	t.Helper()
	var last error
	defer func() {
		if t.Failed() {
			t.Logf("the last error: %v", last)
		}
	}()
	lab.WaitUntil(t, "a tunnel opens", func() bool {
		tunnel, err := c.dial(t, d)
		if err != nil {
			last = err
			return false
		}
		tunnel.Close()
		return true
	})
}

// testTunnels makes tunnels by each carrier. path is what the pod sees of
// /client/amps/report.
func testTunnels(t *testing.T, c *cluster, path string, tls ...bool) {
	for _, carrier := range allCarriers {
		for _, tls := range tls {
			for _, protocol := range []string{"tcp", "tcps"} {
				t.Run(fmt.Sprintf("%s/tls=%t/%s", carrier, tls, protocol), func(t *testing.T) {
					d := c.dialer(tls, carrier)
					d.Path = "/client/amps/report"
					d.Protocol = protocol
					d.Header = http.Header{"X-Field": {"value"}, "X-Forwarded-For": {"198.51.100.1"}} // forged
					tunnel, err := c.dial(t, d)
					require.NoError(t, err)
					require.Equal(t, carrier, tunnel.Carrier())
					require.Equal(t, "yes", tunnel.Response().Header.Get("X-From-Authorize"))
					require.Equal(t, report{path, "edge.example", "value", clientAddress, string(carrier)}, readReport(t, tunnel))
				})
			}
		}
		t.Run(string(carrier)+"/64MiB", func(t *testing.T) {
			tunnel, err := c.dial(t, c.dialer(true, carrier))
			require.NoError(t, err)
			require.NoError(t, sendSum(tunnel, 64<<20))
			require.NoError(t, tunnel.Close())
		})
	}
}

// testPaths requires that each path of a dialer arrives as another one.
func testPaths(t *testing.T, c *cluster, paths map[string]string) {
	for sent, want := range paths {
		d := c.dialer(true)
		d.Path = sent
		tunnel, err := c.dial(t, d)
		require.NoError(t, err, sent)
		require.Equal(t, want, readReport(t, tunnel).Path)
	}
}

// readReport reads the report of a pod, and closes the tunnel.
func readReport(t *testing.T, tunnel *preflight.Conn) (r report) {
	t.Helper()
	require.NoError(t, json.NewDecoder(tunnel).Decode(&r))
	require.NoError(t, tunnel.Close())
	return r
}

// A mistake is an error in a file, and what the dialer says about it.
type mistake struct {
	name  string
	kind  string   // of the object with the mistake
	edits []string // strings to replace in the object, each followed by its replacement
	want  string   // a part of the text of the error
}

// testMistakes applies a file with each mistake. It waits until the dialer says what is
// wanted. Then it applies the object of the file again.
func testMistakes(t *testing.T, c *cluster, file string, d *preflight.PreflightDialer, mistakes []mistake) {
	objects := splitObjects(t, lab.DeployFile(t, file))
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			right := objects[m.kind]
			require.NotEmpty(t, right)
			for i := 0; i < len(m.edits); i += 2 {
				require.Contains(t, right, m.edits[i])
			}
			wrong := strings.NewReplacer(m.edits...).Replace(right)
			c.api.remove(t, right)
			c.api.apply(t, wrong)
			waitForError(t, c, d, m.want)
			c.api.remove(t, wrong)
			c.api.apply(t, right)
			waitForTunnels(t, c, d)
		})
	}
}

// waitForError waits until the error of a dial contains a text.
func waitForError(t *testing.T, c *cluster, d *preflight.PreflightDialer, text string) {
	t.Helper()
	var last error
	defer func() {
		if t.Failed() {
			t.Logf("the last error: %v", last)
		}
	}()
	lab.WaitUntil(t, "the dialer says "+text, func() bool {
		tunnel, err := c.dial(t, d)
		if last = err; err != nil {
			return strings.Contains(err.Error(), text)
		}
		tunnel.Close()
		return false
	})
}

// testIdle requires that the gateway ends a silent tunnel by CarrierUpgrade, and that PINGs
// keep tunnels by the other carriers open. The gateway has a timeout of 2 s.
func testIdle(t *testing.T, c *cluster) {
	var alive []*preflight.Conn
	lab.WaitUntil(t, "a silent tunnel ends", func() bool {
		for _, tunnel := range alive {
			tunnel.Close()
		}
		alive = nil
		for _, carrier := range []preflight.Carrier{preflight.CarrierFramed, preflight.CarrierWebSocket} {
			d := c.dialer(true, carrier)
			d.KeepAlivePeriod = time.Second / 2
			tunnel, err := c.dial(t, d)
			require.NoError(t, err)
			alive = append(alive, tunnel)
		}
		silent, err := c.dial(t, c.dialer(true, preflight.CarrierUpgrade))
		require.NoError(t, err)
		defer silent.Close()
		require.NoError(t, lab.Echo(silent, []byte("before the silence")))
		silent.SetReadDeadline(time.Now().Add(4 * time.Second)) // the gateway may not have the timeout yet
		_, err = silent.Read(make([]byte, 1))
		return !errors.Is(err, os.ErrDeadlineExceeded)
	})
	for _, tunnel := range alive {
		require.NoError(t, lab.Echo(tunnel, []byte("behind the silence")), "%s", tunnel.Carrier())
		require.NoError(t, tunnel.Close())
	}
}

// splitObjects returns the objects of a file by their kind.
func splitObjects(t *testing.T, text string) map[string]string {
	t.Helper()
	objects := make(map[string]string)
	for document := range strings.SplitSeq(text, "\n---\n") {
		var o object
		require.NoError(t, yaml.Unmarshal([]byte(document), &o))
		objects[o.Kind] = document
	}
	return objects
}

// An edit is a change of an object in operation, and a dial that shows when the gateway has
// it: it works, or its error contains a text.
type edit struct {
	name  string
	apply string
	show  func(d *preflight.PreflightDialer)
	want  string
}

// otherRoute makes a second route of that of a file, for the path /other/.
var otherRoute = strings.NewReplacer("metadata:\n  name: preflight", "metadata:\n  name: other", "/client/", "/other/")

// testEdits requires that open tunnels by each carrier live on while objects change.
func testEdits(t *testing.T, c *cluster, edits []edit) {
	var tunnels []*preflight.Conn
	for _, carrier := range allCarriers {
		for _, tls := range []bool{false, true} {
			tunnel, err := c.dial(t, c.dialer(tls, carrier))
			require.NoError(t, err)
			tunnels = append(tunnels, tunnel)
		}
	}
	for _, e := range edits {
		t.Run(e.name, func(t *testing.T) {
			c.api.apply(t, e.apply)
			d := c.dialer(true)
			e.show(d)
			if e.want == "" {
				waitForTunnels(t, c, d)
			} else {
				waitForError(t, c, d, e.want)
			}
			for _, tunnel := range tunnels {
				require.NoError(t, lab.Echo(tunnel, []byte("still here")), "%s", tunnel.Carrier())
			}
		})
	}
}
