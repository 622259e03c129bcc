// Package js has the JavaScript client of this folder for Go programs that serve web pages: the
// page and the listener then always come from the same version.
//
//	mux.Handle("GET /preflight/", http.StripPrefix("/preflight", http.FileServerFS(js.Files)))
//
// A page imports the module preflight.js from there.
package js

import "embed"

// Files are the three modules that a browser loads. A page imports preflight.js, which imports
// the other two from the same folder.
//
//go:embed preflight.js browser.js tunnel.js
var Files embed.FS
