//go:build cluster

package kubernetes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// An api is a client of an API server. It does what kubectl apply --server-side does, so no
// kubectl is needed.
type api struct {
	url       string
	client    *http.Client
	resources map[string]map[string]resource // by version and kind
}

// A resource says where the objects of a kind are.
type resource struct {
	Name       string // the plural, as in a path
	Kind       string
	Namespaced bool
}

// An object is what all objects have.
type object struct {
	APIVersion string
	Kind       string
	Metadata   struct{ Name, Namespace string }
}

// apply creates or changes the objects in a YAML text. The API server refuses a field that
// it does not know. An object without a namespace is in the namespace default.
func (a *api) apply(t *testing.T, text string) {
	t.Helper()
	for document := range strings.SplitSeq(text, "\n---\n") {
		var o object
		require.NoError(t, yaml.Unmarshal([]byte(document), &o))
		if o.Kind == "" {
			continue // a document of comments
		}
		body, err := yaml.YAMLToJSONStrict([]byte(document))
		require.NoError(t, err)
		_, err = a.do(t, http.MethodPatch, a.path(t, o)+"?fieldManager=test&force=true&fieldValidation=Strict", "application/apply-patch+yaml", body)
		require.NoError(t, err, "%s %s", o.Kind, o.Metadata.Name)
	}
}

// install applies a YAML text, and removes its objects at the end of the test.
func (a *api) install(t *testing.T, text string) {
	t.Helper()
	a.apply(t, text)
	t.Cleanup(func() { a.remove(t, text) })
}

// create creates the objects in a YAML text. For definitions of resources this is several
// times as fast as apply, which records the owner of each field.
func (a *api) create(t *testing.T, text string) {
	t.Helper()
	for document := range strings.SplitSeq(text, "\n---\n") {
		var o object
		require.NoError(t, yaml.Unmarshal([]byte(document), &o))
		if o.Kind == "" {
			continue
		}
		body, err := yaml.YAMLToJSON([]byte(document))
		require.NoError(t, err)
		_, err = a.do(t, http.MethodPost, strings.TrimSuffix(a.path(t, o), "/"+o.Metadata.Name), "application/json", body)
		require.NoError(t, err, "%s %s", o.Kind, o.Metadata.Name)
	}
}

// remove deletes the objects in a YAML text.
func (a *api) remove(t *testing.T, text string) {
	t.Helper()
	for document := range strings.SplitSeq(text, "\n---\n") {
		var o object
		require.NoError(t, yaml.Unmarshal([]byte(document), &o))
		if o.Kind == "" {
			continue
		}
		_, err := a.do(t, http.MethodDelete, a.path(t, o), "", nil)
		require.NoError(t, err, "%s %s", o.Kind, o.Metadata.Name)
	}
}

// path returns the path of an object.
func (a *api) path(t *testing.T, o object) string {
	t.Helper()
	root := "/apis/" + o.APIVersion
	if !strings.Contains(o.APIVersion, "/") {
		root = "/api/" + o.APIVersion
	}
	find := func() (r resource, ok bool) { r, ok = a.resources[o.APIVersion][o.Kind]; return r, ok }
	if _, ok := find(); !ok {
		// The server serves a custom resource some time after its definition has come.
		lab.WaitUntil(t, "the API server has "+o.Kind+" in "+o.APIVersion, func() bool {
			a.discover(t, o.APIVersion, root)
			_, ok := find()
			return ok
		})
	}
	r, _ := find()
	if r.Namespaced {
		namespace := o.Metadata.Namespace
		if namespace == "" {
			namespace = "default"
		}
		root += "/namespaces/" + namespace
	}
	return root + "/" + r.Name + "/" + o.Metadata.Name
}

// discover asks which resources a version has.
func (a *api) discover(t *testing.T, version, root string) {
	t.Helper()
	answer, err := a.do(t, http.MethodGet, root, "", nil)
	if err != nil {
		return // the version is not served yet
	}
	var list struct{ Resources []resource }
	require.NoError(t, json.Unmarshal(answer, &list))
	a.resources[version] = make(map[string]resource)
	for _, r := range list.Resources {
		if !strings.Contains(r.Name, "/") {
			a.resources[version][r.Kind] = r
		}
	}
}

// ready reports whether the API server answers a path with 200.
func (a *api) ready(path string) bool {
	request, err := http.NewRequest(http.MethodGet, a.url+path, nil)
	if err != nil {
		return false
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := a.client.Do(request)
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// do sends a request, and returns the body of the answer.
func (a *api) do(t *testing.T, method, path, contentType string, body []byte) ([]byte, error) {
	t.Helper()
	request, err := http.NewRequest(method, a.url+path, bytes.NewReader(body)) // a Cleanup uses it too
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", contentType)
	answer, err := a.client.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 {
		var status struct{ Message string }
		return nil, errors.Join(json.Unmarshal(text, &status), fmt.Errorf("%s %s: %d %s", method, path, answer.StatusCode, status.Message))
	}
	return text, nil
}
