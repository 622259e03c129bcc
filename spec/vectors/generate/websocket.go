package main

import (
	"fmt"
	"strings"

	"github.com/preflight-go/preflight/spec/vectors"
)

// webSockets returns the vectors of WebSocket streams: each for a server, which receives
// masked frames, and for a client.
func webSockets() (all []vectors.Vector) {
	for _, role := range []string{"server", "client"} {
		s := &sender{masks: role == "server"}
		rows := append(s.frames(), s.faults()...)
		if s.masks {
			rows = append(rows, s.keys()...)
		}
		for _, r := range rows {
			r.name = role + "-" + r.name
			all = append(all, r.vector(vectors.WebSocket, role))
		}
	}
	return all
}

const hello = "hello"

// frames are streams that are in order.
func (s *sender) frames() []row {
	each := func(payload string, last string) (frames string) { // one byte in each frame
		first := byte(opBinary)
		for i := range len(payload) {
			frames += s.frame(first, payload[i:i+1])
			first = opContinuation
		}
		return frames + s.frame(fin|opContinuation, last)
	}
	return []row{
		{"data", "M54", "a capsule in each message", s.messages(data(hello), final("")), clean(hello)},
		{"final", "M54", "FINAL_DATA alone", s.message(final("")), clean("")},
		{"two-in-one", "M54", "two capsules in one message", s.message(data(hello) + final("")), clean(hello)},
		{"over-two-messages", "M54", "a capsule extends over two messages", s.messages(data(hello)[:7], data(hello)[7:], final("")), clean(hello)},
		{"header-over-messages", "M54", "a header extends over messages", s.messages("\xad", "\x70\xf1", "\x00", "\x05", "hello"+final("")), clean(hello)},
		{"fragments", "M54", "a message of three fragments", s.frame(opBinary, data(hello)[:3]) + s.frame(opContinuation, data(hello)[3:8]) + s.frame(fin|opContinuation, data(hello)[8:]+final("")), clean(hello)},
		{"fragment-of-each-byte", "M54", "one byte in each fragment", each(data(hello)+final(""), ""), clean(hello)},
		{"fragments-empty", "M54", "empty fragments", s.frame(opBinary, "") + s.frame(opContinuation, "") + s.frame(opContinuation, data(hello)) + s.frame(fin|opContinuation, "") + s.message(final("")), clean(hello)},
		{"messages-empty", "M54", "empty messages", s.messages("", data(hello), "", "", final(""), ""), clean(hello)},
		{"message-unfinished", "M54", "a capsule is complete before its message is", s.frame(opBinary, data(hello)+final("")), open(clean(hello))},
		{"length-125", "M54 M58", "the longest length of seven bits", s.messages(data(bytesOf(119)), final("")), clean(bytesOf(119))},
		{"length-126", "M54 M58", "the shortest length of 16 bits", s.messages(data(bytesOf(120)), final("")), clean(bytesOf(120))},
		{"length-65535", "M54 M58", "the longest length of 16 bits", s.messages(data(bytesOf(65527)), final("")), clean(bytesOf(65527))},
		{"length-65536", "M54 M58", "the shortest length of 64 bits", s.messages(data(bytesOf(65528)), final("")), clean(bytesOf(65528))},
		{"length-2-63", "M58 M33", "the longest length of all; bytes are passed on as they come", s.frameOf(fin|opBinary, 8, 1<<63-1, header(typeData, 1<<62-1)+hello), waiting(hello)},
		{"message-incomplete", "M33 M54", "bytes are passed on before the message is complete", s.frameOf(fin|opBinary, 0, 100, header(typeData, 95)+hello), waiting(hello)},
		{"ping-capsule", "M37 M54", "a PING capsule is answered in a binary message", s.message(pingOf(0x0102030405060708)), pong(waiting(""), 0x0102030405060708)},
		{"ping-capsule-over-fragments", "M54 M37", "a PING capsule in two fragments", s.frame(opBinary, pingOf(5)[:6]) + s.frame(fin|opContinuation, pingOf(5)[6:]), pong(waiting(""), 5)},
		{"unknown-capsule", "M54 M35", "an unknown capsule over two messages", s.messages(data("hel"), capsule(7, "skip")[:3], capsule(7, "skip")[3:], final("lo")), clean(hello)},
		{"like-frames", "M54", "data that looks like frames", s.messages(data("\x88\x00\x81\x01a"), final("")), clean("\x88\x00\x81\x01a")},

		// Control frames.
		{"ping", "M63", "a Ping frame is answered", s.message(data(hello)) + s.frame(fin|opPing, "are you there"), wsPong(waiting(hello), "are you there")},
		{"ping-empty", "M63", "a Ping frame without a payload", s.frame(fin|opPing, ""), wsPong(waiting(""), "")},
		{"ping-125", "M63 M57", "the longest Ping frame", s.frame(fin|opPing, bytesOf(125)), wsPong(waiting(""), bytesOf(125))},
		{"ping-newest", "M63", "the newest Ping frame is answered at least", s.frame(fin|opPing, "1") + s.frame(fin|opPing, "2"), wsPong(waiting(""), "2")},
		{"ping-between-fragments", "M54 M63", "a Ping frame between two fragments", s.frame(opBinary, data(hello)[:7]) + s.frame(fin|opPing, "now") + s.frame(fin|opContinuation, data(hello)[7:]), wsPong(waiting(hello), "now")},
		{"ping-behind-final", "M43 M63", "a Ping frame behind FINAL_DATA", s.message(final(hello)) + s.frame(fin|opPing, "now"), wsPong(clean(hello), "now")},
		{"ping-capsule-behind-final", "M43 M37", "a PING capsule behind FINAL_DATA", s.messages(final(hello), pingOf(3)), pong(clean(hello), 3)},
		{"pong", "M63", "Pong frames are ignored", s.frame(fin|opPong, "") + s.message(data(hello)) + s.frame(fin|opPong, "unasked") + s.message(final("")), clean(hello)},
		{"pong-between-fragments", "M54 M63", "a Pong frame between two fragments", s.frame(opBinary, data(hello)[:7]) + s.frame(fin|opPong, "x") + s.frame(fin|opContinuation, data(hello)[7:]+final("")), clean(hello)},

		// Close.
		{"close-1000", "M64 M41", "a Close before FINAL_DATA", s.message(data(hello)) + s.closeOf(1000, ""), closes(truncated(hello), "1000")},
		{"close-none", "M64 M41", "a Close without a code", s.message(data(hello)) + s.frame(fin|opClose, ""), closes(truncated(hello), "none")},
		{"close-first", "M64 M41", "a Close before anything", s.closeOf(1001, "going away"), closes(truncated(""), "1001")},
		{"close-reason", "M64", "the reason is not repeated", s.closeOf(1011, "Grüße"), closes(truncated(""), "1011")},
		{"close-3000", "M60 M64", "a code of a library", s.closeOf(3000, ""), closes(truncated(""), "3000")},
		{"close-4999", "M60 M64", "a code of an application", s.closeOf(4999, ""), closes(truncated(""), "4999")},
		{"close-1014", "M60 M64", "a code that IANA has added", s.closeOf(1014, ""), closes(truncated(""), "1014")},
		{"close-1007", "M60 M64", "a code that is registered", s.closeOf(1007, ""), closes(truncated(""), "1007")},
		{"close-125", "M57 M64", "the longest Close", s.closeOf(1000, bytesOf(123)), closes(truncated(""), "1000")},
		{"close-behind-final", "M42 M64", "a Close behind FINAL_DATA", s.message(final(hello)) + s.closeOf(1000, ""), closes(clean(hello), "1000")},
		{"close-between-fragments", "M54 M64", "a Close between two fragments", s.frame(opBinary, data(hello)) + s.closeOf(1000, ""), closes(truncated(hello), "1000")},
		{"close-then-data", "M64", "nothing is read behind a Close", s.closeOf(1000, "") + s.messages(data("no"), final("")), closes(truncated(""), "1000")},

		// Early ends.
		{"end-at-once", "M41", "nothing came", "", truncated("")},
		{"end-behind-data", "M41", "an end between messages", s.message(data(hello)), truncated(hello)},
		{"end-in-header", "M41", "an end inside a frame's header", s.message(data(hello)) + s.message(final(""))[:1], truncated(hello)},
		{"end-in-payload", "M41", "an end inside a message", cut(s.message(data(hello)), 1), truncated("hell")},
		{"end-in-fragments", "M41", "an end inside a fragmented message", s.frame(opBinary, data(hello)), truncated(hello)},
		{"end-in-final", "M41", "an end inside FINAL_DATA", s.message(data(hello)) + cut(s.message(final("")), 1), truncated(hello)},
		{"end-in-capsule", "M41", "an end between messages, inside a capsule", s.message(header(typeData, 6) + hello), truncated(hello)},
		{"reset-behind-data", "M41", "a reset between messages", s.message(data(hello)), reset(stream(hello, "reset"))},
		{"reset-behind-final", "M42", "a reset behind FINAL_DATA", s.message(final(hello)), reset(clean(hello))},
	}
}

func cut(s string, n int) string { return s[:len(s)-n] }

// fault expects a protocol error with a Close code.
func fault(data, code string) vectors.Vector { return closes(malformed(data), code) }

// faults are streams that break a rule.
func (s *sender) faults() []row {
	broken := fault(hello, "1002")
	before := s.message(data(hello)) // what stands before the fault
	rows := []row{
		{"rsv-1", "M55", "the first reserved bit, as of a compressed message", before + s.frame(fin|0x40|opBinary, data("x")), broken},
		{"rsv-2", "M55", "the second reserved bit", before + s.frame(fin|0x20|opBinary, data("x")), broken},
		{"rsv-3", "M55", "the third reserved bit", before + s.frame(fin|0x10|opBinary, data("x")), broken},
		{"rsv-1-control", "M55", "a reserved bit in a Ping frame", before + s.frame(fin|0x40|opPing, ""), broken},
		{"rsv-1-continuation", "M55", "a reserved bit in a continuation", before + s.frame(opBinary, "") + s.frame(fin|0x40, ""), broken},
		{"control-fragmented", "M57", "a Ping frame that is not the last of its message", before + s.frame(opPing, "x"), broken},
		{"control-close-fragmented", "M57", "a Close that is not the last of its message", before + s.frame(opClose, ""), broken},
		{"control-126", "M57", "a Ping frame of 126 bytes", before + s.frame(fin|opPing, bytesOf(126)), broken},
		{"control-close-126", "M57", "a Close of 126 bytes", before + s.closeOf(1000, bytesOf(124)), broken},
		{"control-form-16", "M57 M58", "a Ping frame with a length of 16 bits", before + s.frameOf(fin|opPing, 2, 1, "x"), broken},
		{"length-form-16", "M58", "a length of 16 bits that has room in seven", before + s.frameOf(fin|opBinary, 2, 6, data("x")), broken},
		{"length-form-16-of-125", "M58", "125 in 16 bits", before + s.frameOf(fin|opBinary, 2, 125, data(bytesOf(119))), broken},
		{"length-form-64", "M58", "a length of 64 bits that has room in seven", before + s.frameOf(fin|opBinary, 8, 6, data("x")), broken},
		{"length-form-64-of-65535", "M58", "65535 in 64 bits", before + s.frameOf(fin|opBinary, 8, 65535, data("x")), broken},
		{"length-negative", "M58", "the uppermost bit of a length of 64 bits is set", before + s.frameOf(fin|opBinary, 8, 1<<63, data("x")), broken},
		{"length-all-ones", "M58", "all bits of a length are set", before + s.frameOf(fin|opBinary, 8, 1<<64-1, data("x")), broken},
		{"continuation-first", "M59", "a continuation is the first frame", s.frame(fin|opContinuation, data(hello)), fault("", "1002")},
		{"continuation-of-nothing", "M59", "a continuation behind a complete message", before + s.frame(fin|opContinuation, data("x")), broken},
		{"message-in-message", "M59", "a binary message begins inside another", s.frame(opBinary, data(hello)) + s.message(data("x")), broken},
		{"close-1-byte", "M60", "a Close with a body of one byte", before + s.frame(fin|opClose, "\x03"), broken},
		{"close-not-utf8", "M60", "a reason that is not UTF-8", before + s.closeOf(1000, "\xff\xfe"), broken},
		{"close-utf8-cut", "M60", "a reason that ends inside a character", before + s.closeOf(1000, "Gr\xc3"), broken},
		{"close-utf8-surrogate", "M60", "a surrogate in a reason", before + s.closeOf(1000, "\xed\xa0\x80"), broken},
		{"capsule-first", "M61 M32", "the message does not hold a capsule", s.message(hello), fault("", "1002")},
		{"capsule-first-unknown", "M61 M32", "an unknown capsule is first", s.message(capsule(7, "")), fault("", "1002")},
		{"capsule-type-form", "M61 M30", "the type of a capsule in eight bytes", before + s.message(varintOf(8, typeData)+varint(1)+"x"), broken},
		{"capsule-ping-length", "M61 M36", "a PING capsule of seven bytes", before + s.message(header(typePing, 7)+"1234567"), broken},
		{"capsule-unknown-long", "M61 M35", "an unknown capsule of 65537 bytes", before + s.message(header(7, 65537)), broken},
		{"capsule-behind-final", "M61 M34 M42", "DATA behind FINAL_DATA", s.messages(final(hello), data("x")), closes(brokenBehind(hello), "1002")},
		{"frame-behind-final", "M42 M43 M55", "a reserved bit behind FINAL_DATA", s.message(final(hello)) + s.frame(fin|0x40|opBinary, ""), closes(brokenBehind(hello), "1002")},
		{"error-then-data", "M47", "nothing is passed on behind a protocol error", before + s.frame(fin|0x40|opBinary, "") + s.messages(data("no"), final("")), broken},
		{"text", "M62", "a text message", before + s.frame(fin|opText, "x"), fault(hello, "1003")},
		{"text-first", "M62", "a text message of capsules is first", s.frame(fin|opText, data(hello)), fault("", "1003")},
		{"text-empty", "M62", "an empty text message", before + s.frame(fin|opText, ""), fault(hello, "1003")},
		{"text-fragmented", "M62", "a fragmented text message, at its first fragment", before + s.frame(opText, ""), fault(hello, "1003")},
		{"text-rsv", "M55 M62", "a text message with a reserved bit: either code", before + s.frame(fin|0x40|opText, "x"), malformed(hello)},
		{"text-in-message", "M59 M62", "a text message inside another message: either code", s.frame(opBinary, data(hello)) + s.frame(fin|opText, "x"), malformed(hello)},
		{"text-mask", "M56 M62", "a text message with a wrong mask bit: either code", before + (&sender{masks: !s.masks}).frame(fin|opText, "x"), malformed(hello)},
		{"text-behind-final", "M42 M43 M62", "a text message behind FINAL_DATA", s.message(final(hello)) + s.frame(fin|opText, "x"), closes(brokenBehind(hello), "1003")},
	}
	for _, opcode := range []byte{0x3, 0x4, 0x5, 0x6, 0x7, 0xb, 0xc, 0xd, 0xe, 0xf} {
		rows = append(rows, row{fmt.Sprintf("opcode-%x", opcode), "M55", "a reserved opcode",
			before + s.frame(fin|opcode, ""), broken})
	}
	for _, code := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535} {
		rows = append(rows, row{fmt.Sprintf("close-%d", code), "M60", "a code that may not be sent",
			before + s.closeOf(code, ""), broken})
	}
	other := &sender{masks: !s.masks}
	note := "a masked frame of the server"
	if s.masks {
		note = "a frame of the client without a mask"
	}
	return append(rows,
		row{"mask", "M56", note, before + other.message(data("x")), broken},
		row{"mask-of-control", "M56", note + ", a Ping", before + other.frame(fin|opPing, ""), broken},
		row{"mask-of-continuation", "M56", note + ", a continuation", before + s.frame(opBinary, "") + other.frame(fin|opContinuation, ""), broken},
	)
}

// keys are streams of a client with keys of a certain kind.
func (s *sender) keys() (rows []row) {
	long := strings.Repeat(data(hello), 20) + final("")
	start := "\x82" + string([]byte{0x80 | 126, byte(len(long) >> 8), byte(len(long))})
	for _, k := range []struct {
		name string
		key  uint32
	}{{"zero", 0}, {"ones", 1<<32 - 1}, {"one-byte", 0xad}, {"like-a-type", 0xad70f100}} {
		rows = append(rows, row{"key-" + k.name, "M54", "a receiver accepts any key",
			start + masked(k.key, long), clean(strings.Repeat(hello, 20))})
	}
	return rows
}
