// Package js has the JavaScript client of this folder for Go programs that serve web pages: the
// page and the listener then always come from the same version.
//
//	mux.Handle("GET /preflight/", http.StripPrefix("/preflight", http.FileServerFS(js.Files)))
//
// A page imports preflight.js from there.
package js

import "embed"

// Files has the module preflight.js, which needs no other file.
//
//go:embed preflight.js
var Files embed.FS
