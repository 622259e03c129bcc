package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/preflight-go/preflight/cmd/preflight/internal/config"
)

type configCommand struct {
	Product string `arg:"" enum:"${products}" help:"One of: ${products}. ats is Apache Traffic Server."`

	Path      given    `placeholder:"/PATH" help:"The path of the tunnels. /pg stands for this path and all paths below it, /pg/ only for the paths below it, and / for all paths. The proxy removes the path, if it can: /pg/x arrives as /x. The default is /client/."`
	Backend   given    `placeholder:"HOST:PORT" help:"The address of 'preflight serve' or of your listener. The default is 127.0.0.1:9007. For kubernetes it is the Service preflight:9007, for alb 10.0.0.10:9007."`
	Listen    given    `placeholder:"[IP]:PORT" help:"Where the proxy listens without TLS. The default is :80."`
	TLSListen given    `name:"tls-listen" placeholder:"[IP]:PORT" help:"Where the proxy listens with TLS. The default is :443."`
	Host      given    `placeholder:"NAME" help:"The host name that the proxy serves. The default is any name, or edge.example for a product that needs a name."`
	Cert      given    `placeholder:"FILE" help:"The certificate and its chain (PEM). The default is /etc/ssl/preflight/tls.crt."`
	Key       given    `placeholder:"FILE" help:"The key of --cert (PEM). The default is /etc/ssl/preflight/tls.key."`
	Carrier   []string `placeholder:"NAME" help:"Forward this carrier: upgrade, framed or websocket. Repeatable. The default is all that the product can forward."`
	SendProxy bool     `help:"Report the client's address by the PROXY protocol, version 2, instead of X-Forwarded-For. Only for haproxy."`

	File string `placeholder:"NAME" help:"Print only this file of a product that has several."`
	Out  string `type:"path" placeholder:"DIR" help:"Write the files to this folder. Existing files are never overwritten."`
}

// A given is the value of a flag, which is not empty.
type given string

// UnmarshalText implements [encoding.TextUnmarshaler] for flags.
func (g *given) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("the value is empty")
	}
	*g = given(text)
	return nil
}

// Help is the text below the flags.
func (configCommand) Help() string {
	return `The configuration is complete and commented. The comments name the settings that the listener, or
"preflight serve", needs. The command reads no file and sends nothing.

If a product has several files, a line such as "# file: traefik.yml" begins each of them on standard
output.`
}

func (c *configCommand) Run(env *environment) error {
	files, err := config.Print(c.Product, config.Options{
		Path: string(c.Path), Backend: string(c.Backend), Listen: string(c.Listen), TLSListen: string(c.TLSListen),
		Host: string(c.Host), Cert: string(c.Cert), Key: string(c.Key), Carriers: c.Carrier, SendProxy: c.SendProxy, Folder: c.Out,
	})
	if err != nil {
		return usage(err)
	}
	if c.File != "" {
		i := slices.IndexFunc(files, func(f config.File) bool { return f.Name == c.File })
		if i < 0 {
			return usagef("--file %q: %s has %s", c.File, c.Product, fileNames(files))
		}
		files = files[i : i+1]
	}
	if c.Out != "" {
		if err := writeFiles(c.Out, files); err != nil {
			return usage(err)
		}
		return nil
	}
	for _, f := range files {
		if len(files) > 1 {
			if _, err := fmt.Fprintf(env.stdout, "# file: %s\n", f.Name); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(env.stdout, f.Text); err != nil {
			return err
		}
	}
	return nil
}

func fileNames(files []config.File) string {
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// writeFiles writes new files. It writes none if one of them exists.
func writeFiles(folder string, files []config.File) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(folder, f.Name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("--out: %s exists, and nothing was written: move it away, or choose another folder", path)
		}
	}
	for _, f := range files {
		file, err := os.OpenFile(filepath.Join(folder, f.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		_, err = io.WriteString(file, f.Text)
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
	}
	return nil
}
