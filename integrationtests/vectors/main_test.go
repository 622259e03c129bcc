// Package vectors_test runs the vectors of the wire document on the library.
package vectors_test

import (
	"testing"

	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/preflight-go/preflight/spec/vectors"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// of returns the vectors of these kinds.
func of(t *testing.T, kinds ...string) (some []vectors.Vector) {
	t.Helper()
	all, err := vectors.All()
	require.NoError(t, err)
	for _, v := range all {
		for _, kind := range kinds {
			if v.Kind == kind {
				some = append(some, v)
			}
		}
	}
	require.NotEmpty(t, some)
	return some
}

// chunkings calls run with each way in which the bytes of v must be split.
func chunkings(v vectors.Vector, run func(chunks [][]byte)) {
	run([][]byte{v.Bytes})
	if !v.EachByte {
		return
	}
	var single [][]byte
	for i := range v.Bytes {
		single = append(single, v.Bytes[i:i+1])
		run([][]byte{v.Bytes[:i], v.Bytes[i:]})
	}
	run(single)
}
