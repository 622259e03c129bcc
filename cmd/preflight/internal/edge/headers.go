package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/preflight-go/preflight"
	"golang.org/x/net/http/httpguts"
)

// headers are the fields of the requests.
type headers struct {
	fixed    http.Header
	file     string
	once     bool // file is no regular file
	command  string
	timeout  time.Duration // of the command
	lifetime time.Duration
	log      *slog.Logger

	mu   sync.Mutex
	read http.Header // what was read of file last, and was good

	running chan struct{} // holds a value while nobody runs the command
	printed http.Header   // by the command; guarded by running
	until   time.Time     // when it is old
}

func newHeaders(f Flags, log *slog.Logger) (*headers, error) {
	h := &headers{file: f.HeaderFile, command: f.HeaderCommand, timeout: f.Timeout, lifetime: f.HeaderLifetime, log: log, running: make(chan struct{}, 1)}
	h.running <- struct{}{}
	var err error
	if h.fixed, err = parseFields(f.Header); err != nil {
		return nil, fmt.Errorf("--header: %w", err)
	}
	if h.lifetime <= 0 {
		return nil, errors.New("--header-lifetime must be above 0")
	}
	if h.file != "" {
		if h.read, err = readFields(h.file); err != nil {
			return nil, fmt.Errorf("--header-file: %w", err)
		}
		// A pipe, such as <(command) of a shell, would be empty the next time.
		info, err := os.Stat(h.file)
		h.once = err == nil && !info.Mode().IsRegular()
	}
	return h, nil
}

// get implements PreflightDialer.GetHeader.
func (h *headers) get(ctx context.Context, refused *preflight.StatusError) (http.Header, error) {
	fields := make(http.Header)
	if h.file != "" {
		maps.Copy(fields, h.readFile())
	}
	if h.command != "" {
		printed, err := h.runCommand(ctx, refused != nil)
		if err != nil {
			return nil, err
		}
		maps.Copy(fields, printed)
	}
	return fields, nil
}

func (h *headers) readFile() http.Header {
	if h.once {
		return h.read
	}
	fields, err := readFields(h.file)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.log.Warn("the header file is bad; its last good content is used", "error", err)
	} else {
		h.read = fields
	}
	return h.read
}

// maxOutput is the most that the command may print. No proxy accepts so large a head.
const maxOutput = 1 << 20

// An output is what the command has printed. A Write beyond maxOutput fails, and the command
// then cannot write any more.
type output struct {
	text    bytes.Buffer
	tooMuch bool
}

func (o *output) Write(b []byte) (int, error) {
	if o.tooMuch = o.text.Len()+len(b) > maxOutput; o.tooMuch {
		return 0, errors.New("too much output")
	}
	return o.text.Write(b)
}

// runCommand returns what the command prints. One dial runs it, and the others wait for the
// result. The library does not limit the time of this, and a dial has no deadline.
func (h *headers) runCommand(ctx context.Context, renew bool) (http.Header, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, h.timeout, fmt.Errorf("it has not ended within --timeout (%v)", h.timeout))
	defer cancel()
	asked := time.Now()
	select {
	case <-h.running:
		defer func() { h.running <- struct{}{} }()
	case <-ctx.Done():
		return nil, fmt.Errorf("--header-command failed: %w", context.Cause(ctx))
	}
	// What was printed after the refusal of this dial is new enough for it.
	printedAt := h.until.Add(-h.lifetime)
	if time.Now().Before(h.until) && (!renew || printedAt.After(asked)) {
		return h.printed, nil
	}
	shell, flag := "/bin/sh", "-c"
	if runtime.GOOS == "windows" {
		shell, flag = "cmd", "/C"
	}
	cmd := exec.CommandContext(ctx, shell, flag, h.command)
	killGroup(cmd)
	cmd.WaitDelay = time.Second // for a child that keeps the output open
	var printed output
	cmd.Stdout = &printed
	// Its error output may hold what it was given, so only its status is shown.
	if err := cmd.Run(); err != nil {
		switch {
		case printed.tooMuch:
			err = fmt.Errorf("it has printed more than %d bytes", maxOutput)
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("--header-command failed: %w", err)
	}
	fields, err := parseFields(strings.Split(printed.text.String(), "\n"))
	if err != nil {
		return nil, fmt.Errorf("--header-command printed a bad line: %w", err)
	}
	h.printed, h.until = fields, time.Now().Add(h.lifetime)
	return fields, nil
}

func readFields(file string) (http.Header, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	fields, err := parseFields(strings.Split(string(text), "\n"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return fields, nil
}

// parseFields reads lines such as "Name: value". Empty lines and comments are skipped. An error
// names the line, and shows nothing of it.
func parseFields(lines []string) (http.Header, error) {
	fields := make(http.Header)
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, fmt.Errorf("line %d is not 'Name: value'", i+1)
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		fields[name] = append(fields[name], value)
	}
	return fields, nil
}
