package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// ConfigFlags are those of a command that runs for long.
type ConfigFlags struct {
	Config      configFile    `type:"path" placeholder:"FILE" help:"Read flags from this file (YAML or JSON). Each key is the name of a flag without the dashes. Flags that may be repeated take a list. The command line takes precedence."`
	ReloadEvery time.Duration `default:"0s" help:"Check this often whether the files have changed, and read changed files again, as on SIGHUP. 0 means only on SIGHUP."`
}

func (f ConfigFlags) check() error {
	if f.ReloadEvery < 0 {
		return errors.New("--reload-every is negative")
	}
	return nil
}

// A configFile is the path of a file with flags.
type configFile string

// BeforeResolve is called by kong when the command line has been read.
func (configFile) BeforeResolve(ctx *kong.Context, trace *kong.Path) error {
	r, err := readConfig(string(ctx.FlagValue(trace.Flag).(configFile)), ctx.Flags())
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	ctx.AddResolver(r)
	return nil
}

// A fileFlags is what a configFile holds, by the names of the flags. It implements
// [kong.Resolver].
type fileFlags struct {
	file   string
	values map[string]yaml.Node
}

// readConfig reads a file, and requires that each key is one of the flags.
func readConfig(file string, flags []*kong.Flag) (*fileFlags, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	c := &fileFlags{file: file}
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&c.values); err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if d.Decode(new(yaml.Node)) != io.EOF {
		return nil, fmt.Errorf("%s has more than one document", file)
	}
	for _, key := range slices.Sorted(maps.Keys(c.values)) {
		known := slices.ContainsFunc(flags, func(f *kong.Flag) bool { return f.Name == key })
		switch key {
		case "config", "help", "version":
			known = false
		}
		if !known {
			return nil, c.errorf(key, "this command has no such flag for a file")
		}
	}
	return c, nil
}

// errorf names the line of a key.
func (c *fileFlags) errorf(key, format string, args ...any) error {
	return fmt.Errorf("%s, line %d: %s: %w", c.file, c.values[key].Line, key, fmt.Errorf(format, args...))
}

// Validate does nothing: readConfig has done it.
func (c *fileFlags) Validate(*kong.Application) error { return nil }

// Resolve returns the value of a flag: a string, or a list of strings.
func (c *fileFlags) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	node, ok := c.values[flag.Name]
	switch {
	case !ok:
		return nil, nil
	case node.Kind == yaml.SequenceNode && flag.Target.Kind() != reflect.Slice:
		return nil, c.errorf(flag.Name, "a list, and the flag has one value")
	case node.Kind != yaml.SequenceNode:
		value, err := c.scalar(flag, &node)
		return value, err
	}
	var list []any
	for _, n := range node.Content {
		value, err := c.scalar(flag, n)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	return list, nil
}

// scalar returns one value of a flag. It reads it as the flag does, to name the line of what
// is bad.
func (c *fileFlags) scalar(flag *kong.Flag, node *yaml.Node) (string, error) {
	if node.Kind != yaml.ScalarNode || node.Tag == "!!null" {
		return "", c.errorf(flag.Name, "neither a value nor a list of values")
	}
	scan := kong.Scan().PushTyped(node.Value, kong.FlagValueToken)
	target := reflect.New(flag.Target.Type()).Elem()
	if target.Kind() == reflect.Pointer {
		target.Set(reflect.New(target.Type().Elem()))
	}
	if err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, target); err != nil {
		return "", c.errorf(flag.Name, "%w", err)
	}
	return node.Value, nil
}

// changedFlags returns the names of the flags whose values differ. It is an error if one of them
// cannot change while the program runs.
func changedFlags(old, fresh *kong.Context) (changed []string, err error) {
	before := make(map[string]any)
	for _, f := range old.Flags() {
		before[f.Name] = f.Target.Interface()
	}
	for _, f := range fresh.Flags() {
		if reflect.DeepEqual(before[f.Name], f.Target.Interface()) {
			continue
		}
		if !f.Tag.Has("live") {
			return nil, fmt.Errorf("--%s cannot change while the program runs: restart it", f.Name)
		}
		changed = append(changed, f.Name)
	}
	return changed, nil
}

// reloadable returns what reads the file of --config again, or nil if there is none. use gets the
// flags when they are valid, and differ from those in use. What it returns decides whether they
// replace these.
func (env *environment) reloadable(file configFile, use func(*cli) error) *reloadable {
	if file == "" {
		return nil
	}
	return &reloadable{slog.String("flag", "config"), []string{string(file)}, func() error {
		var fresh cli
		parsed, err := env.parse(&fresh)
		if err != nil {
			return err
		}
		changed, err := changedFlags(env.parsed, parsed)
		if err != nil || len(changed) == 0 {
			return err
		}
		if err := use(&fresh); err != nil {
			return err
		}
		env.parsed = parsed
		env.log.Info("the flags have changed", "flags", changed)
		return nil
	}}
}
