package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// An example is a command line of the help and of the manual, and what it is for.
type example struct{ what, line string }

// examples are those of each command.
var examples = map[string][]example{
	"serve": {
		{"PostgreSQL, behind an nginx on this machine", "preflight serve --listen 127.0.0.1:9007 --to 127.0.0.1:5432 --trusted-proxy 127.0.0.1 --require-upgrade --token-file /etc/preflight/tokens"},
		{"two servers, by path", "preflight serve --listen 127.0.0.1:9007 --route /pg=127.0.0.1:5432 --route /ssh=127.0.0.1:22 --token-file /etc/preflight/tokens"},
		{"no server yet: test the path with \"preflight check\"", "preflight serve --listen 127.0.0.1:9007 --echo --token-file /etc/preflight/tokens"},
		{"a Unix socket behind TLS, for clients that have a certificate", "preflight serve --listen :443 --to unix:/run/redis/redis.sock --tls-cert tls.crt --tls-key tls.key --client-ca ca.crt --allow-san '*.clients.example'"},
	},
	"forward": {
		{"then \"psql -h 127.0.0.1 -p 15432\" reaches the server behind the edge", "preflight forward --listen 127.0.0.1:15432 https://edge.example/pg --header-file fields"},
		{"two servers, by WebSocket alone", "preflight forward --listen 127.0.0.1:15432 --listen 127.0.0.1:16379 wss://edge.example/pg wss://edge.example/redis"},
		{"a token that expires", "preflight forward --listen unix:/run/preflight/pg.sock https://edge.example/pg --header-command 'echo Authorization: Bearer $(gcloud auth print-identity-token)'"},
	},
	"connect": {
		{"print the lines for ~/.ssh/config; then run \"ssh build.example\"", "preflight connect --ssh-config build.example https://edge.example/ssh --header-file ~/.ssh/fields"},
		{"send a file, and print the answer", "preflight connect https://edge.example/lines <request >answer"},
	},
	"check": {
		{"find out why forward opens no tunnel", "preflight check https://edge.example/pg --header-file fields"},
		{"run this in place of the server, and then check again", "preflight check --listen 127.0.0.1:9007"},
	},
	"config": {
		{"nginx in front of \"preflight serve --listen 127.0.0.1:9007\"", "preflight config nginx --path /pg >/etc/nginx/conf.d/preflight.conf"},
		{"two files", "preflight config traefik --path /pg --out /etc/traefik"},
		{"an Ingress for the Service pg", "preflight config kubernetes --path /pg --backend pg:9007 --file ingress-nginx.yaml | kubectl apply -f -"},
	},
	"completion": {
		{"bash, in ~/.bashrc", "source <(preflight completion bash)"},
		{"zsh, in ~/.zshrc after compinit", "source <(preflight completion zsh)"},
		{"fish, in ~/.config/fish/config.fish", "preflight completion fish | source"},
	},
	"man": {
		{"read it", "preflight man | man -l -"},
		{"install it", "preflight man >/usr/local/share/man/man1/preflight.1"},
	},
}

// printHelp prints the help of kong, and the examples of the command behind it.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil {
		return err
	}
	if node := ctx.Selected(); node != nil {
		return printExamples(ctx.Stdout, examples[node.Name])
	}
	return nil
}

// printExamples prints examples, with long lines as a shell continues them.
func printExamples(w io.Writer, examples []example) error {
	var b strings.Builder
	for i, e := range examples {
		if i == 0 {
			b.WriteString("\nExamples:\n")
		}
		fmt.Fprintf(&b, "\n  # %s\n  %s\n", e.what, strings.Join(wrapCommand(e.line), " \\\n    "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wrapCommand breaks a command line before flags, so that no part is long.
func wrapCommand(line string) (parts []string) {
	const width = 76
	words := strings.Split(line, " --")
	part := words[0]
	for _, word := range words[1:] {
		if len(part)+len(word)+len(" --") > width {
			parts = append(parts, part)
			part = "--" + word
			continue
		}
		part += " --" + word
	}
	return append(parts, part)
}
