package kubernetes

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// The schemas of Kubernetes are in Go modules. The tests need none of their code, so the
// modules are downloaded, and go.mod does not require them.
var (
	// crds are the modules with the definitions of custom resources.
	crds = []schemaModule{
		{"sigs.k8s.io/gateway-api@v1.6.1", "h1:mock6phZbI6rvZerwrVNk7hVNymQgHo+6sJ81Ia7ftY=", "config/crd/standard/*.yaml"},
		{"github.com/envoyproxy/gateway@v1.9.1", "h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY=", "charts/gateway-helm/charts/crds/crds/generated/*.yaml"},
		{"istio.io/api@v1.32.0", "h1:37mJvg9I0biYZAEQF+MATs4FNeCpXEIVO3LFpVb6iNM=", "kubernetes/customresourcedefinitions.gen.yaml"},
	}
	// builtins are the modules with what the API server publishes as OpenAPI.
	builtins = []schemaModule{
		{"sigs.k8s.io/kubectl-validate@v0.0.4", "h1:tGKuv0awYHn11Cb6KPsZKxUmHgavF46K3NvVH0Nse9U=", "pkg/openapiclient/builtins/1.30/api/v1.json"},
		{"sigs.k8s.io/kubectl-validate@v0.0.4", "h1:tGKuv0awYHn11Cb6KPsZKxUmHgavF46K3NvVH0Nse9U=", "pkg/openapiclient/builtins/1.30/apis/networking.k8s.io/v1.json"},
		{"sigs.k8s.io/kubectl-validate@v0.0.4", "h1:tGKuv0awYHn11Cb6KPsZKxUmHgavF46K3NvVH0Nse9U=", "pkg/openapiclient/builtins/1.30/apis/apps/v1.json"},
		{"sigs.k8s.io/kubectl-validate@v0.0.4", "h1:tGKuv0awYHn11Cb6KPsZKxUmHgavF46K3NvVH0Nse9U=", "pkg/openapiclient/builtins/1.30/apis/policy/v1.json"},
		{"sigs.k8s.io/kubectl-validate@v0.0.4", "h1:tGKuv0awYHn11Cb6KPsZKxUmHgavF46K3NvVH0Nse9U=", "pkg/openapiclient/builtins/1.30/apis/autoscaling/v2.json"},
	}
)

// A schemaModule is a version of a module, its checksum, and a pattern of file names.
type schemaModule struct{ version, sum, files string }

// TestKubernetes requires that the files of deploy/kubernetes agree with the schemas of an
// API server, and that they have no field that the schemas do not name.
func TestKubernetes(t *testing.T) {
	schemas := loadSchemas(t)
	files, err := filepath.Glob("../../deploy/kubernetes/*.yaml")
	require.NoError(t, err)
	require.Len(t, files, 10)
	for _, file := range files {
		for kind, resource := range parseResources(t, lab.DeployFile(t, "kubernetes/"+filepath.Base(file))) {
			require.Contains(t, schemas, kind)
			require.NoError(t, schemas[kind].Validate(resource), "%s of %s", kind, file)
		}
	}

	probed := parseResources(t, lab.DeployFile(t, "kubernetes/deployment.yaml", httpGetEdits...))
	require.NoError(t, schemas["apps/v1 Deployment"].Validate(probed["apps/v1 Deployment"]))

	for _, mistake := range []struct{ file, kind, old, new, want string }{
		{"ingress-nginx.yaml", "networking.k8s.io/v1 Ingress", "ingressClassName:", "ingressClass:", "additional properties 'ingressClass' not allowed"},
		{"ingress-nginx.yaml", "networking.k8s.io/v1 Ingress", "            pathType: Prefix\n", "", "missing property 'pathType'"},
		{"ingress-nginx.yaml", "networking.k8s.io/v1 Ingress", `"3600"`, "3600", "got number, want string"},
		{"ingress-nginx.yaml", "v1 Service", "port: 9007", "port: tunnels", "got string, want integer"},
		{"gateway-api.yaml", "gateway.networking.k8s.io/v1 HTTPRoute", "type: PathPrefix", "type: Prefix", "value must be one of"},
		{"gateway-api.yaml", "gateway.envoyproxy.io/v1alpha1 BackendTrafficPolicy", "httpUpgrade:", "upgrade:", "additional properties 'upgrade' not allowed"},
		{"gateway-api.yaml", "gateway.envoyproxy.io/v1alpha1 BackendTrafficPolicy", "streamIdleTimeout: 1h", "streamIdleTimeout: 1 hour", "does not match pattern"},
		{"gateway-api.yaml", "gateway.envoyproxy.io/v1alpha1 ClientTrafficPolicy", "KeepUnchanged", "Keep", "value must be one of"},
		{"deployment.yaml", "apps/v1 Deployment", "tcpSocket:", "tcp:", "additional properties 'tcp' not allowed"},
		{"operation.yaml", "autoscaling/v2 HorizontalPodAutoscaler", "averageValue:", "average:", "additional properties 'average' not allowed"},
		{"istio.yaml", "networking.istio.io/v1alpha3 EnvoyFilter", "operation: MERGE", "operation: merge", "value must be one of"},
		{"istio.yaml", "networking.istio.io/v1 VirtualService", "prefix: /client/", "prefixed: /client/", "additional properties 'prefixed' not allowed"},
	} {
		resources := parseResources(t, lab.DeployFile(t, "kubernetes/"+mistake.file, mistake.old, mistake.new))
		require.ErrorContains(t, schemas[mistake.kind].Validate(resources[mistake.kind]), mistake.want)
	}
}

// parseResources returns the resources in a file, by version and kind.
func parseResources(t *testing.T, text string) map[string]any {
	t.Helper()
	resources := make(map[string]any)
	for document := range strings.SplitSeq(text, "\n---\n") {
		var meta struct{ APIVersion, Kind string }
		require.NoError(t, yaml.Unmarshal([]byte(document), &meta))
		kind := meta.APIVersion + " " + meta.Kind
		require.NotContains(t, resources, kind)
		resources[kind] = parseYAML(t, []byte(document))
	}
	return resources
}

// loadSchemas returns the schemas of resources, by version and kind.
func loadSchemas(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	schemas := make(map[string]*jsonschema.Schema)
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft4) // the base of the schemas of OpenAPI 3.0
	add := func(kind string, document any, at string) {
		name := "kubernetes:///" + strings.ReplaceAll(kind, " ", "/")
		require.NoError(t, compiler.AddResource(name, document))
		schema, err := compiler.Compile(name + at)
		require.NoError(t, err)
		schemas[kind] = schema
	}
	for _, file := range moduleFiles(t, crds) {
		for document := range bytes.SplitSeq(file, []byte("\n---\n")) {
			var crd struct {
				Spec struct {
					Group    string
					Names    struct{ Kind string }
					Versions []struct {
						Name   string
						Schema struct {
							OpenAPIV3Schema map[string]any
						}
					}
				}
			}
			require.NoError(t, yaml.Unmarshal(document, &crd))
			for _, version := range crd.Spec.Versions {
				schema := version.Schema.OpenAPIV3Schema
				for _, field := range []string{"apiVersion", "kind", "metadata"} {
					schema["properties"].(map[string]any)[field] = map[string]any{}
				}
				closeSchema(schema)
				add(crd.Spec.Group+"/"+version.Name+" "+crd.Spec.Names.Kind, schema, "")
			}
		}
	}
	for _, file := range moduleFiles(t, builtins) {
		document := parseYAML(t, file)
		components := document.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any)
		for _, schema := range components {
			closeSchema(schema)
		}
		for kind, name := range map[string]string{
			"v1 Service":                             "io.k8s.api.core.v1.Service",
			"v1 ConfigMap":                           "io.k8s.api.core.v1.ConfigMap",
			"networking.k8s.io/v1 Ingress":           "io.k8s.api.networking.v1.Ingress",
			"networking.k8s.io/v1 NetworkPolicy":     "io.k8s.api.networking.v1.NetworkPolicy",
			"apps/v1 Deployment":                     "io.k8s.api.apps.v1.Deployment",
			"policy/v1 PodDisruptionBudget":          "io.k8s.api.policy.v1.PodDisruptionBudget",
			"autoscaling/v2 HorizontalPodAutoscaler": "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
		} {
			if components[name] != nil {
				add(kind, document, "#/components/schemas/"+name)
			}
		}
	}
	return schemas
}

// closeSchema makes a schema refuse fields that it does not name. It leaves schemas below
// allOf, anyOf, oneOf and not alone, because those name only some of the fields.
func closeSchema(schema any) {
	s, ok := schema.(map[string]any)
	if !ok {
		return
	}
	if properties, ok := s["properties"].(map[string]any); ok {
		for _, property := range properties {
			closeSchema(property)
		}
		if s["additionalProperties"] == nil && s["x-kubernetes-preserve-unknown-fields"] == nil {
			s["additionalProperties"] = false
		}
	}
	closeSchema(s["additionalProperties"])
	closeSchema(s["items"])
}

// moduleFiles downloads modules, and returns the files that match their patterns.
func moduleFiles(t *testing.T, modules []schemaModule) (files [][]byte) {
	t.Helper()
	for _, m := range modules {
		c := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", m.version)
		c.Dir = t.TempDir() // outside of any module
		output, err := c.Output()
		require.NoError(t, err, "%s", output)
		var module struct{ Dir, Sum string }
		require.NoError(t, json.Unmarshal(output, &module))
		require.Equal(t, m.sum, module.Sum)
		names, err := fs.Glob(os.DirFS(module.Dir), m.files)
		require.NoError(t, err)
		require.NotEmpty(t, names)
		for _, name := range names {
			file, err := os.ReadFile(filepath.Join(module.Dir, name))
			require.NoError(t, err)
			files = append(files, file)
		}
	}
	return files
}

// parseYAML parses YAML, or JSON, which is YAML too.
func parseYAML(t *testing.T, text []byte) any {
	t.Helper()
	text, err := yaml.YAMLToJSONStrict(text)
	require.NoError(t, err)
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	return value
}
