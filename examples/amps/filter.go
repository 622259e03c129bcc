package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
)

// A filter selects messages by their content. The language is a part of that of
// AMPS: fields such as /customer/name, strings, numbers, the comparisons
// = == != <> < <= > >=, AND, OR, NOT and parentheses.
type filter func(document any) bool

var errFilter = errors.New("bad filter")

// maxFilter bounds the length of a filter, and so the recursion of its parser.
const maxFilter = 4 << 10

// compileFilter returns nil for an empty text, which matches everything.
func compileFilter(text string) (filter, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if len(text) > maxFilter {
		return nil, errFilter
	}
	p := &filterParser{rest: text}
	f, err := p.or()
	if err == nil && p.token() != "" {
		err = errFilter
	}
	return f, err
}

// matches decodes the body and applies the filter. A body that is not JSON has no
// fields.
func (f filter) matches(body []byte) bool {
	return f == nil || f(decode(body))
}

// decode returns nil for a body that is not JSON.
func decode(body []byte) any {
	in := json.NewDecoder(bytes.NewReader(body))
	in.UseNumber() // float64 would change a key of 17 digits
	var document any
	if in.Decode(&document) != nil {
		return nil
	}
	if _, err := in.Token(); err != io.EOF {
		return nil
	}
	return document
}

type filterParser struct {
	rest string
	next string // the result of token, until take
}

// token returns the next token, "" at the end, and does not take it.
func (p *filterParser) token() string {
	if p.next != "" {
		return p.next
	}
	p.rest = strings.TrimLeft(p.rest, " \t\r\n")
	if p.rest == "" {
		return ""
	}
	n := 1
	switch c := p.rest[0]; {
	case c == '\'' || c == '"':
		if end := strings.IndexByte(p.rest[1:], c); end >= 0 {
			n = end + 2
		}
	case strings.ContainsRune("=!<>", rune(c)):
		if len(p.rest) > 1 && (p.rest[1] == '=' || c == '<' && p.rest[1] == '>') {
			n = 2
		}
	case c != '(' && c != ')':
		if n = strings.IndexAny(p.rest, " \t\r\n=!<>()'\""); n < 0 {
			n = len(p.rest)
		}
	}
	p.next, p.rest = p.rest[:n], p.rest[n:]
	return p.next
}

func (p *filterParser) take() string {
	token := p.token()
	p.next = ""
	return token
}

// word takes the next token if it is this word, and reports that. Case does not
// matter.
func (p *filterParser) word(word string) bool {
	if !strings.EqualFold(p.token(), word) {
		return false
	}
	p.take()
	return true
}

func (p *filterParser) or() (filter, error) {
	left, err := p.and()
	for err == nil && p.word("OR") {
		var right filter
		if right, err = p.and(); err == nil {
			l := left
			left = func(d any) bool { return l(d) || right(d) }
		}
	}
	return left, err
}

func (p *filterParser) and() (filter, error) {
	left, err := p.not()
	for err == nil && p.word("AND") {
		var right filter
		if right, err = p.not(); err == nil {
			l := left
			left = func(d any) bool { return l(d) && right(d) }
		}
	}
	return left, err
}

func (p *filterParser) not() (filter, error) {
	if p.word("NOT") {
		f, err := p.not()
		return func(d any) bool { return !f(d) }, err
	}
	if p.word("(") {
		f, err := p.or()
		if err == nil && !p.word(")") {
			err = errFilter
		}
		return f, err
	}
	return p.comparison()
}

func (p *filterParser) comparison() (filter, error) {
	left, err := p.operand()
	if err != nil {
		return nil, err
	}
	operator := p.take()
	right, err := p.operand()
	if err != nil {
		return nil, err
	}
	var wanted func(order int, comparable bool) bool
	switch operator {
	case "=", "==":
		wanted = func(order int, comparable bool) bool { return comparable && order == 0 }
	case "!=", "<>":
		wanted = func(order int, comparable bool) bool { return !comparable || order != 0 }
	case "<":
		wanted = func(order int, comparable bool) bool { return comparable && order < 0 }
	case "<=":
		wanted = func(order int, comparable bool) bool { return comparable && order <= 0 }
	case ">":
		wanted = func(order int, comparable bool) bool { return comparable && order > 0 }
	case ">=":
		wanted = func(order int, comparable bool) bool { return comparable && order >= 0 }
	default:
		return nil, errFilter
	}
	return func(d any) bool { return wanted(compare(left(d), right(d))) }, nil
}

// operand returns a function for a field of the document, or for a constant.
func (p *filterParser) operand() (func(any) any, error) {
	token := p.take()
	switch {
	case token == "":
		return nil, errFilter
	case token[0] == '/' && len(token) > 1:
		path := strings.Split(token[1:], "/")
		return func(d any) any { return field(d, path) }, nil
	case (token[0] == '\'' || token[0] == '"') && len(token) > 1:
		text := token[1 : len(token)-1]
		return func(any) any { return text }, nil
	}
	if _, err := strconv.ParseFloat(token, 64); err != nil {
		return nil, errFilter
	}
	return func(any) any { return json.Number(token) }, nil
}

// field follows a path through objects. It returns nil if there is no such field.
func field(document any, path []string) any {
	for _, name := range path {
		object, ok := document.(map[string]any)
		if !ok {
			return nil
		}
		document = object[name]
	}
	return document
}

// compare reports false if the values cannot be compared.
func compare(a, b any) (order int, comparable bool) {
	switch a := a.(type) {
	case string:
		b, ok := b.(string)
		return strings.Compare(a, b), ok
	case json.Number:
		b, ok := b.(json.Number)
		if !ok {
			return 0, false
		}
		x, _ := a.Float64()
		y, _ := b.Float64()
		switch {
		case x < y:
			return -1, true
		case x > y:
			return 1, true
		}
		return 0, true
	}
	return 0, false
}
