//go:build !heavy

package main

// heavyPeers are built with -tags heavy: they bring some two hundred modules along.
var heavyPeers []*peer
