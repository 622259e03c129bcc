package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
)

const keyWaiting = "waiting"

// The rows of clients that let a listener wait.
const (
	waitsSilent = "preflight, nothing said"
	waitsHead   = "preflight, in the head"
	waitsHello  = "preflight, in a ClientHello"
)

// waits has the order of the client of each row.
var waits = map[string]string{blockedReader: "hold", waitsSilent: opSilent, waitsHead: opStuck, waitsHello: opHello}

// waitingPeer is a listener that takes TLS too, so that it waits for the end of a ClientHello.
var waitingPeer = &peer{"preflight, TLS or not", "PreflightListener with TLSConfig", listenEither, dialPreflight(nil)}

func listenEither(s *site, handle func(net.Conn)) (string, error) {
	certificate, err := s.certificate(ecdsaKey)
	if err != nil {
		return "", err
	}
	l, err := preflightListener(nil)
	if err != nil {
		return "", err
	}
	l.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	go acceptAll(l, handle)
	return l.Addr().String(), nil
}

// waitingClients measures what a client costs that says nothing, or stops in the middle.
func (b *bench) waitingClients(ctx context.Context) (*section, error) {
	const title = "Clients that let the server wait"
	s := &section{
		key: keyWaiting, title: title,
		text: fmt.Sprintf("Bytes of the server process for each of %d clients that connect and say nothing, that stop after %d bytes of their head, or after half of a ClientHello (%d bytes), compared with connections on which the server only waits in Read; %d repetitions.",
			b.stuck, stuckBytes, len(halfHello), min(3, b.few)),
		columns: memoryColumns(),
		samples: newSamples(blockedReader, waitsSilent, waitsHead, waitsHello),
	}
	rows := s.samples.rows
	return s, b.repeat(title, min(3, b.few), len(rows), func(i int, _ bool) error {
		peer := waitingPeer.name
		if rows[i] == blockedReader {
			peer = bareTCP
		}
		return b.loaded(ctx, peer, func(l *load) error {
			if _, err := l.open(waits[rows[i]], b.stuck); err != nil {
				return err
			}
			return l.addMemory(s.samples, rows[i])
		})
	})
}

// halfHello is the first half of the ClientHello of crypto/tls.
var halfHello = func() []byte {
	var r recorder
	tls.Client(&r, &tls.Config{ServerName: "edge.example"}).Handshake()
	return r.written[:len(r.written)/2]
}()

// A recorder records the first Write, and then fails.
type recorder struct {
	net.Conn
	written []byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.written = append(r.written, b...)
	return 0, net.ErrClosed
}

func (r *recorder) Close() error { return nil }
