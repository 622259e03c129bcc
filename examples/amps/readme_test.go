package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var snippet = regexp.MustCompile("(?m)^<!-- (clients/\\S+) (\\S+) -->\n```\\w+\n((?:.*\n)*?)```$")

// TestSnippetsAreThoseOfTheClients requires that each snippet of the page is part of a program.
func TestSnippetsAreThoseOfTheClients(t *testing.T) {
	page, err := os.ReadFile("README.md")
	require.NoError(t, err)
	snippets := snippet.FindAllStringSubmatch(string(page), -1)
	require.Len(t, snippets, strings.Count(string(page), "<!-- clients/"))
	shown := make(map[string]bool)
	for _, s := range snippets {
		file, name, text := s[1], s[2], s[3]
		shown[file+" "+name] = true
		require.Equal(t, region(t, file, name), text, "%s, region %s", file, name)
	}
	for _, file := range []string{"clients/python/orders.py", "clients/java/Orders.java", "clients/cpp/orders.cpp", "clients/js/orders.js"} {
		require.True(t, shown[file+" connect"], file)
	}
}

// region returns the lines between the marks of a region, without the indentation of the first
// line.
func region(t *testing.T, file, name string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(text), " region "+name+"\n")
	require.True(t, ok, "%s has no region %s", file, name)
	end := strings.Index(rest, " endregion")
	require.Positive(t, end, file)
	lines := strings.SplitAfter(rest[:end], "\n")
	lines = lines[:len(lines)-1] // the line of the mark
	indent := lines[0][:len(lines[0])-len(strings.TrimLeft(lines[0], " "))]
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], indent)
	}
	return strings.Join(lines, "")
}

// TestFlagsAreOnThePage requires that the page names each flag of the program.
func TestFlagsAreOnThePage(t *testing.T) {
	page, err := os.ReadFile("README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	flags := regexp.MustCompile(`flags\.\w*Var\([^"]*"([a-z-]+)"`).FindAllStringSubmatch(string(source), -1)
	require.NotEmpty(t, flags)
	for _, flag := range flags {
		require.Contains(t, string(page), "-"+flag[1]+" ", "README.md does not name -%s", flag[1])
	}
}
