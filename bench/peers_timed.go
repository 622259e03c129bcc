package main

import (
	"net"
	"time"
)

// timed is the floor with the parts that a middleware must add so that no client delays
// another one and no dial waits without an end: a goroutine for each exchange, which passes
// the connection to Accept, and timeouts on both sides. It parses nothing.
var timed = &peer{"bare TCP with timeouts", "the floor, behind a goroutine for each exchange, with timeouts on both sides", listenTimed, dialTimed}

// patient is the timeout of an exchange, the default of preflight.
const patient = 10 * time.Second

// A timedListener returns the connections that have finished their exchange.
type timedListener struct {
	net.Listener
	finished chan net.Conn
}

func (l *timedListener) Accept() (net.Conn, error) { return <-l.finished, nil }

func listenTimed(_ *site, handle func(net.Conn)) (string, error) {
	l, err := listenLoopback()
	if err != nil {
		return "", err
	}
	t := &timedListener{l, make(chan net.Conn)}
	go acceptAll(l, func(c net.Conn) {
		if bounded(c, floorServer) != nil {
			c.Close()
			return
		}
		t.finished <- c
	})
	go acceptAll(t, handle)
	return l.Addr().String(), nil
}

// bounded calls exchange with a timeout.
func bounded(c net.Conn, exchange func(net.Conn) error) error {
	if err := c.SetDeadline(time.Now().Add(patient)); err != nil {
		return err
	}
	if err := exchange(c); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

func dialTimed(s *site) (dialFunc, error) {
	d := *s.net
	d.Timeout = patient
	return dialBy(&d, request, func(c net.Conn, request []byte) error {
		return bounded(c, func(c net.Conn) error { return floorClient(c, request) })
	}), nil
}
