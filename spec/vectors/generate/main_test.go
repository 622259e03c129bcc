package main

import (
	"testing"

	"github.com/preflight-go/preflight/spec/vectors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The files are what the tables say. If they are not: go run ./spec/vectors/generate
func TestFiles(t *testing.T) {
	files, err := vectors.All()
	require.NoError(t, err)
	found := make(map[string]vectors.Vector)
	for _, v := range files {
		found[v.ID] = v
	}
	tables := all()
	require.Len(t, tables, len(files))
	for _, v := range tables {
		file, ok := found[v.ID]
		require.True(t, ok, "%s has no file", v.ID)
		assert.Equal(t, string(vectors.Format(v)), string(vectors.Format(file)))
		delete(found, v.ID)
	}
	assert.Empty(t, found)
}
