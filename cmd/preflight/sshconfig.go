package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
)

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@+=:,./~-]+$`)

// printSSHConfig prints the lines of ~/.ssh/config that run this command, with its flags.
func (c *connectCommand) printSSHConfig(w io.Writer, parsed *kong.Context) error {
	if !plainWord.MatchString(c.SSHConfig) {
		return usagef("--ssh-config %q is no host name", c.SSHConfig)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	words := []string{program, "connect"}
	seen := map[string]bool{"ssh-config": true}
	for _, p := range parsed.Path {
		if p.Flag == nil || seen[p.Flag.Name] {
			continue
		}
		seen[p.Flag.Name] = true
		name := "--" + p.Flag.Name
		switch v := p.Flag.Target.Interface().(type) {
		case bool:
			words = append(words, name)
		case []string:
			for _, s := range v {
				words = append(words, name+"="+s)
			}
		default:
			words = append(words, fmt.Sprintf("%s=%v", name, v))
		}
	}
	words = append(words, c.URL)
	for i := range words {
		if strings.ContainsAny(words[i], "\r\n") {
			return usagef("--ssh-config: a value has more than one line, and a line of ~/.ssh/config cannot hold it")
		}
		words[i] = quote(words[i])
	}
	// ssh gives everything behind the keyword to the shell.
	_, err = fmt.Fprintf(w, "Host %s\n    ProxyCommand %s\n", c.SSHConfig, strings.Join(words, " "))
	return err
}

// quote makes s one word of the shell. ssh expands % before that (ssh_config(5), TOKENS).
func quote(s string) string {
	plain := plainWord.MatchString(s)
	s = strings.ReplaceAll(s, "%", "%%")
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
