package main

import (
	"encoding/binary"
	"math"
	"strings"
)

// Types of capsules.
const (
	typeData  = 0x2d70f100
	typeFinal = 0x2d70f101
	typeNone  = 0x2d70f102
	typeDrain = 0x2d70f103
	typePing  = 0x2d70f104
	typePong  = 0x2d70f105
)

// varint returns the shortest form of an integer.
func varint(v uint64) string {
	size := 8
	switch {
	case v < 1<<6:
		size = 1
	case v < 1<<14:
		size = 2
	case v < 1<<30:
		size = 4
	}
	return varintOf(size, v)
}

// varintOf returns the form of an integer that has size bytes.
func varintOf(size int, v uint64) string {
	b := be64(v)[8-size:]
	b[0] |= map[int]byte{1: 0x00, 2: 0x40, 4: 0x80, 8: 0xc0}[size]
	return string(b)
}

func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// header returns the header of a capsule.
func header(kind, length uint64) string { return varint(kind) + varint(length) }

// capsule returns a capsule.
func capsule(kind uint64, value string) string { return header(kind, uint64(len(value))) + value }

func data(s string) string   { return capsule(typeData, s) }
func final(s string) string  { return capsule(typeFinal, s) }
func pingOf(v uint64) string { return capsule(typePing, string(be64(v))) }
func pongOf(v uint64) string { return capsule(typePong, string(be64(v))) }
func bytesOf(n int) string   { return strings.Repeat("preflight ", n/10+1)[:n] }

// allBytes returns each value of a byte once.
func allBytes() string {
	var b [256]byte
	for i := range b {
		b[i] = byte(i)
	}
	return string(b[:])
}

// Opcodes of WebSocket frames.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa

	fin = 0x80
)

// A sender writes the frames of one side. The key of a client's frames counts up, so that
// the files are always the same.
type sender struct {
	masks bool
	key   uint32
}

// frame returns a frame with the first byte first.
func (s *sender) frame(first byte, payload string) string {
	form := 0
	switch {
	case len(payload) > math.MaxUint16:
		form = 8
	case len(payload) > 125:
		form = 2
	}
	return s.frameOf(first, form, uint64(len(payload)), payload)
}

// frameOf returns a frame whose length has form bytes behind the first two, and need not be
// that of the payload.
func (s *sender) frameOf(first byte, form int, length uint64, payload string) string {
	b := []byte{first}
	switch form {
	case 0:
		b = append(b, byte(length))
	case 2:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(length))
	case 8:
		b = binary.BigEndian.AppendUint64(append(b, 127), length)
	}
	if !s.masks {
		return string(b) + payload
	}
	s.key = s.key*0x9e3779b1 + 0x37fa213d
	return string(b[:1]) + string([]byte{b[1] | 0x80}) + string(b[2:]) + masked(s.key, payload)
}

// masked returns a key and the payload that it masks.
func masked(key uint32, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, key)
	for i := range len(payload) {
		b = append(b, payload[i]^b[i%4])
	}
	return string(b)
}

// message returns a binary message of one frame.
func (s *sender) message(payload string) string { return s.frame(fin|opBinary, payload) }

// messages returns a binary message for each payload.
func (s *sender) messages(payloads ...string) (all string) {
	for _, p := range payloads {
		all += s.message(p)
	}
	return all
}

// closeOf returns a Close frame.
func (s *sender) closeOf(code uint16, reason string) string {
	return s.frame(fin|opClose, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}
