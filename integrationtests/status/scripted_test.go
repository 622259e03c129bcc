package status_test

import (
	"io"
	"log"
)

var noLog = log.New(io.Discard, "", 0)
