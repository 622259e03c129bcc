package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/tools/benchmark/parse"
)

// The rows of the exchange into the caller's memory. The exchange is not in the API, so a
// benchmark of the root module measures it, and the same work of net/http.
const (
	exchangeOurs   = "server exchange, no Conn: preflight"
	exchangeByHand = "server exchange, no Conn: http.ReadRequest and a prepared 101"
)

var exchangeRows = map[string]string{
	"BenchmarkServerExchange/preflight": exchangeOurs,
	"BenchmarkServerExchange/net/http":  exchangeByHand,
}

// buildExchange compiles that benchmark.
func (b *bench) buildExchange(ctx context.Context) (program string, err error) {
	program = filepath.Join(b.site.dir, "exchange.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "github.com/preflight-go/preflight")
	build.Stderr = os.Stderr
	return program, build.Run()
}

// exchange adds a repetition of that benchmark.
func (b *bench) exchange(ctx context.Context, program string, s *samples) error {
	run := exec.CommandContext(ctx, program, "-test.run=^$", "-test.bench=^BenchmarkServerExchange$",
		"-test.benchmem", fmt.Sprintf("-test.benchtime=%dx", b.feats))
	run.Stderr = os.Stderr
	output, err := run.Output()
	if err != nil {
		return err
	}
	set, err := parse.ParseSet(bytes.NewReader(output))
	if err != nil {
		return err
	}
	for name, row := range exchangeRows {
		if n := runtime.GOMAXPROCS(0); n > 1 { // then the name of a benchmark ends with it
			name = fmt.Sprintf("%s-%d", name, n)
		}
		if len(set[name]) != 1 {
			return fmt.Errorf("there is no %s in: %s", name, output)
		}
		of := set[name][0]
		s.add(row, elapsed, of.NsPerOp)
		s.add(row, allocs, float64(of.AllocsPerOp))
		s.add(row, bytesN, float64(of.AllocedBytesPerOp))
	}
	return nil
}
