package status_test

import (
	"io"
	"log"
)

var scrNoLog = log.New(io.Discard, "", 0)
