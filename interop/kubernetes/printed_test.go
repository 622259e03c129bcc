package kubernetes

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// TestPrinted requires that what "preflight config" prints for other flags than the defaults
// agrees with the schemas too.
func TestPrinted(t *testing.T) {
	schemas, program := loadSchemas(t), lab.BuildCommand(t)
	for _, flags := range []string{"--path /pg", "--path /feeds/v1.0/ --host feeds.example", "--path / --backend feeds:7000"} {
		for _, file := range []string{"deployment.yaml", "gateway-api.yaml", "gateway-api-websocket.yaml", "istio.yaml", "traefik.yaml", "nginx-gateway-fabric.yaml", "ingress-nginx.yaml"} {
			args := append([]string{"config", "kubernetes", "--file", file}, strings.Fields(flags)...)
			text, err := exec.CommandContext(t.Context(), program, args...).Output()
			require.NoError(t, err)
			for kind, resource := range parseResources(t, string(text)) {
				require.NoError(t, schemas[kind].Validate(resource), "%s of %s with %s", kind, file, flags)
			}
		}
	}
}
