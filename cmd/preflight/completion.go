package main

import (
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// The scripts call "preflight complete" for the words on the line.
var (
	//go:embed completions/preflight.bash
	completionBash string
	//go:embed completions/preflight.zsh
	completionZsh string
	//go:embed completions/preflight.fish
	completionFish string
)

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"The shell: bash, zsh or fish."`
}

func (c *completionCommand) Run(env *environment) error {
	_, err := io.WriteString(env.stdout, map[string]string{"bash": completionBash, "zsh": completionZsh, "fish": completionFish}[c.Shell])
	return err
}

// completeCommand is what the scripts call. The last word is the one to complete.
type completeCommand struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

func (c *completeCommand) Run(env *environment, parsed *kong.Context) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	for _, s := range complete(parsed.Model.Node, words) {
		if _, err := fmt.Fprintf(env.stdout, "%s\t%s\n", s.text, s.help); err != nil {
			return err
		}
	}
	return nil
}

// A suggestion is a word that can stand on the line.
type suggestion struct{ text, help string }

// listed are the values of flags that have no enum, because their errors say more.
var listed = map[string][]string{
	"carrier":   {"upgrade", "framed", "websocket"},
	"log-level": {"debug", "info", "warn", "error"},
}

// complete returns what the last word can become. If it returns nothing, the shell offers
// the names of files.
func complete(node *kong.Node, words []string) (found []suggestion) {
	if len(words) == 0 {
		words = []string{""}
	}
	begun, words := words[len(words)-1], words[:len(words)-1]
	add := func(text, help string) {
		if strings.HasPrefix(text, begun) {
			help, _, _ = strings.Cut(help, ". ")
			found = append(found, suggestion{text, strings.TrimSuffix(help, ".")})
		}
	}
	positional := 0
	var open *kong.Flag // waits for its value
	for _, word := range words {
		switch {
		case open != nil:
			open = nil
		case strings.HasPrefix(word, "-"):
			if flag := flagOf(node, word); flag != nil && !flag.IsBool() {
				open = flag
			}
		default:
			i := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == word })
			if i < 0 {
				positional++
				continue
			}
			node = node.Children[i]
		}
	}
	switch {
	case open != nil:
		values := listed[open.Name]
		if values == nil && open.Enum != "" {
			values = open.EnumSlice()
		}
		for _, value := range values {
			add(value, "")
		}
	case strings.HasPrefix(begun, "-"):
		for _, flags := range node.AllFlags(true) {
			for _, flag := range flags {
				add("--"+flag.Name, flag.Help)
				if flag.Tag.Negatable != "" {
					add("--no-"+flag.Name, "")
				}
			}
		}
	default:
		for _, child := range node.Children {
			if !child.Hidden {
				add(child.Name, child.Help)
			}
		}
		if positional < len(node.Positional) {
			for _, value := range node.Positional[positional].EnumSlice() {
				add(value, "")
			}
		}
	}
	return found
}

// flagOf returns the flag of a word without a value: --name.
func flagOf(node *kong.Node, word string) *kong.Flag {
	for _, flags := range node.AllFlags(false) {
		for _, flag := range flags {
			if word == "--"+flag.Name {
				return flag
			}
		}
	}
	return nil
}
