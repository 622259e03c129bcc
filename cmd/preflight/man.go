package main

import (
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
)

type manCommand struct{}

// Run prints a page for man(1), from the model of the flags.
func (manCommand) Run(env *environment, parsed *kong.Context) error {
	_, err := io.WriteString(env.stdout, manPage(parsed.Model))
	return err
}

func manPage(app *kong.Application) string {
	var p roff
	release := "preflight"
	if info, ok := debug.ReadBuildInfo(); ok {
		release += " " + info.Main.Version
	}
	p.macro("TH", "PREFLIGHT", "1", "", release, "User Commands")
	title, description, _ := strings.Cut(app.Help, "\n")
	p.macro("SH", "NAME")
	p.text("preflight - " + lowerFirst(strings.TrimSuffix(title, ".")))
	p.macro("SH", "SYNOPSIS")
	for i, command := range app.Children {
		if command.Hidden {
			continue
		}
		if i > 0 {
			p.macro("br")
		}
		p.text("preflight " + command.Summary())
	}
	p.macro("SH", "DESCRIPTION")
	p.prose(description)
	p.macro("SH", "COMMON OPTIONS")
	p.flags(app.Flags)
	p.macro("SH", "COMMANDS")
	for _, command := range app.Children {
		if command.Hidden {
			continue
		}
		p.macro("SS", "preflight "+command.Summary())
		p.prose(command.Help)
		p.prose(command.Detail)
		for _, argument := range command.Positional {
			p.item(argument.Summary(), argument.Help)
		}
		p.flags(command.Flags)
		for i, e := range examples[command.Name] {
			if i == 0 {
				p.prose("Examples:")
			}
			p.prose("  # " + e.what + "\n  " + strings.Join(wrapCommand(e.line), " \\\n    "))
		}
	}
	p.macro("SH", "SEE ALSO")
	p.text("https://github.com/preflight-go/preflight/blob/main/docs/command.md")
	return p.String()
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// A roff is a text with the macros of man(7).
type roff struct{ strings.Builder }

var roffEscapes = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", "\\(ga", `^`, `\(ha`, `~`, `\(ti`)

// macro writes a line with a macro.
func (p *roff) macro(name string, arguments ...string) {
	p.WriteString("." + name)
	for _, a := range arguments {
		p.WriteString(` "` + strings.ReplaceAll(roffEscapes.Replace(a), `"`, `\(dq`) + `"`)
	}
	p.WriteString("\n")
}

// text writes a line. It never begins with the dot of a macro.
func (p *roff) text(line string) {
	line = roffEscapes.Replace(line)
	if strings.HasPrefix(line, ".") {
		line = `\&` + line
	}
	p.WriteString(line + "\n")
}

// prose writes paragraphs. A paragraph whose lines begin with two spaces stays as it is.
func (p *roff) prose(text string) {
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if paragraph == "" {
			continue
		}
		p.macro("PP")
		verbatim := strings.HasPrefix(paragraph, "  ")
		if verbatim {
			p.macro("nf")
		}
		for line := range strings.SplitSeq(paragraph, "\n") {
			p.text(line)
		}
		if verbatim {
			p.macro("fi")
		}
	}
}

// item writes a term and what it means.
func (p *roff) item(term, meaning string) {
	p.macro("TP")
	p.macro("B", term)
	p.text(meaning)
}

// flags writes a list of flags.
func (p *roff) flags(flags []*kong.Flag) {
	for _, flag := range flags {
		if flag.Hidden {
			continue
		}
		term := "--" + flag.Name
		switch {
		case flag.Tag.Negatable != "":
			term = "--[no-]" + flag.Name
		case !flag.IsBool():
			term += "=" + flag.FormatPlaceHolder()
		}
		if flag.Short != 0 {
			term = fmt.Sprintf("-%c, %s", flag.Short, term)
		}
		p.item(term, flag.Help)
	}
}
