package main

import (
	"strings"

	"github.com/preflight-go/preflight/spec/vectors"
)

// capsules returns the vectors of bare capsules. The bytes are the same in both directions.
func capsules() (all []vectors.Vector) {
	const hello = "hello"
	rows := []row{
		// Data and its end.
		{"final", "M34", "FINAL_DATA alone is an empty stream", final(""), clean("")},
		{"data", "M33 M34", "DATA, then FINAL_DATA", data(hello) + final(""), clean(hello)},
		{"data-twice", "M33", "the values of two DATA are joined", data("hel") + data("lo") + final(""), clean(hello)},
		{"data-of-one-byte-each", "M33", "boundaries mean nothing", data("h") + data("e") + data("l") + data("l") + data("o") + final(""), clean(hello)},
		{"data-in-final", "M33 M34", "FINAL_DATA holds all bytes", final(hello), clean(hello)},
		{"data-and-final-with-data", "M33 M34", "FINAL_DATA holds the last bytes", data("hel") + final("lo"), clean(hello)},
		{"data-empty", "M33", "DATA of length 0 is legal", data("") + data(hello) + data("") + final(""), clean(hello)},
		{"data-empty-many", "M33", "many DATA of length 0", strings.Repeat(data(""), 100) + final(hello), clean(hello)},
		{"data-each-value", "M33", "each value of a byte", data(allBytes()) + final(""), clean(allBytes())},
		{"data-like-capsules", "M33", "a value that looks like capsules is data", data(final("")+pingOf(1)) + final(""), clean(final("") + pingOf(1))},
		{"data-63", "M33", "the longest length of one byte", data(bytesOf(63)) + final(""), clean(bytesOf(63))},
		{"data-64", "M33", "the shortest length of two bytes", data(bytesOf(64)) + final(""), clean(bytesOf(64))},
		{"data-16383", "M33", "the longest length of two bytes", data(bytesOf(16383)) + final(""), clean(bytesOf(16383))},
		{"data-16384", "M33", "the shortest length of four bytes", data(bytesOf(16384)) + final(""), clean(bytesOf(16384))},
		{"data-32768", "M33", "the longest value that is sent", data(bytesOf(32768)) + final(""), clean(bytesOf(32768))},
		{"data-40000", "M33", "a receiver takes longer values than are sent", data(bytesOf(40000)) + final(""), clean(bytesOf(40000))},
		{"data-incomplete", "M33", "bytes are passed on before the capsule is complete", header(typeData, 100) + hello, waiting(hello)},
		{"data-length-2-62", "M33 M79", "the greatest length of all", header(typeData, 1<<62-1) + hello, waiting(hello)},
		{"final-incomplete", "M33", "bytes of FINAL_DATA are passed on before it is complete", header(typeFinal, 100) + hello, waiting(hello)},
		{"final-and-nothing", "M42", "the end is clean while the transport is open", data(hello) + final(""), open(clean(hello))},

		// Forms of integers.
		{"length-form-2", "M30", "a length of two bytes that has room in one", varint(typeData) + varintOf(2, 5) + hello + final(""), clean(hello)},
		{"length-form-4", "M30", "a length of four bytes that has room in one", varint(typeData) + varintOf(4, 5) + hello + final(""), clean(hello)},
		{"length-form-8", "M30", "a length of eight bytes that has room in one", varint(typeData) + varintOf(8, 5) + hello + final(""), clean(hello)},
		{"length-form-final", "M30", "a length 0 of eight bytes", data(hello) + varint(typeFinal) + varintOf(8, 0), clean(hello)},
		{"length-form-ping", "M30 M36 M37", "the length 8 of a PING in two bytes", varint(typePing) + varintOf(2, 8) + string(be64(7)), pong(waiting(""), 7)},
		{"type-form-8-data", "M30", "the type of DATA in eight bytes", data(hello) + varintOf(8, typeData) + varint(1) + "x", malformed(hello)},
		{"type-form-8-first", "M30 M32", "the first type in eight bytes", varintOf(8, typeData) + varint(1) + "x", malformed("")},
		{"type-form-2-unknown", "M30", "an unknown type in two bytes that has room in one", data(hello) + varintOf(2, 0) + varint(0) + final(""), malformed(hello)},
		{"type-form-4-unknown", "M30", "an unknown type in four bytes that has room in two", data(hello) + varintOf(4, 1<<14-1) + varint(0) + final(""), malformed(hello)},
		{"type-form-8-unknown", "M30", "an unknown type in eight bytes that has room in four", data(hello) + varintOf(8, 1<<30-1) + varint(0) + final(""), malformed(hello)},

		// The first capsule.
		{"first-ping", "M32", "a PING is first", pingOf(1) + final(hello), clean(hello)},
		{"first-pong", "M32 M38", "a PONG is first", pongOf(1) + final(hello), clean(hello)},
		{"first-unknown", "M32", "an unknown type is first", capsule(0, "") + final(hello), malformed("")},
		{"first-none", "M32 M35", "the type without meaning is first", capsule(typeNone, "") + final(hello), malformed("")},
		{"first-reserved", "M32 M35", "the reserved type is first", capsule(typeDrain, "") + final(hello), malformed("")},
		{"first-next-type", "M32", "a type that this document does not name is first", capsule(typePong+1, "") + final(hello), malformed("")},
		{"first-byte", "M32", "one wrong byte is enough", "h", malformed("")},
		{"second-byte", "M32", "the second byte is wrong", "\xad\x71", malformed("")},
		{"third-byte", "M32", "the third byte is wrong", "\xad\x70\xf0", malformed("")},
		{"first-text", "M32", "a peer that does not frame sends a line", "hello\r\n", malformed("")},
		{"first-http", "M32", "an HTTP answer", "HTTP/1.1 400 Bad Request\r\n\r\n", malformed("")},
		{"first-tls", "M32", "a TLS record", "\x16\x03\x01\x00\x05hello", malformed("")},
		{"first-websocket", "M32", "a WebSocket message", "\x82\x0a" + data(hello), malformed("")},
		{"first-zeros", "M32", "zeros", "\x00\x00\x00\x00", malformed("")},

		// Unknown types.
		{"unknown-empty", "M35", "an unknown type without a value", data("hel") + capsule(0, "") + data("lo") + final(""), clean(hello)},
		{"unknown-type-1-byte", "M35", "an unknown type of one byte", data("hel") + capsule(0x3f, "skip") + final("lo"), clean(hello)},
		{"unknown-type-2-bytes", "M35", "an unknown type of two bytes", data("hel") + capsule(0x40, "skip") + final("lo"), clean(hello)},
		{"unknown-type-4-bytes", "M35", "an unknown type of four bytes", data("hel") + capsule(0x2d70f0ff, "skip") + final("lo"), clean(hello)},
		{"unknown-type-8-bytes", "M35", "an unknown type of eight bytes", data("hel") + capsule(1<<62-1, "skip") + final("lo"), clean(hello)},
		{"unknown-none", "M35", "the type without meaning is skipped", data("hel") + capsule(typeNone, "skip") + final("lo"), clean(hello)},
		{"unknown-reserved", "M35", "the reserved type is skipped", data("hel") + capsule(typeDrain, "skip") + final("lo"), clean(hello)},
		{"unknown-like-capsules", "M35", "the value of an unknown type means nothing", data(hello) + capsule(0, data("no")+final("")) + final(""), clean(hello)},
		{"unknown-many", "M35", "many unknown capsules", data("hel") + strings.Repeat(capsule(7, "skip"), 100) + final("lo"), clean(hello)},
		{"unknown-65536", "M35", "the longest unknown value", data("hel") + capsule(7, bytesOf(65536)) + final("lo"), clean(hello)},
		{"unknown-65537", "M35", "one byte too much; the value does not come", data(hello) + header(7, 65537), malformed(hello)},
		{"unknown-length-2-62", "M35", "the greatest length", data(hello) + header(7, 1<<62-1), malformed(hello)},
		{"unknown-behind-final", "M34 M35", "an unknown type behind FINAL_DATA", final(hello) + capsule(7, "skip") + pingOf(3), pong(clean(hello), 3)},

		// PING and PONG.
		{"ping", "M37", "a PING is answered", pingOf(0x0102030405060708), pong(waiting(""), 0x0102030405060708)},
		{"ping-zero", "M37", "the value 0 is a value", pingOf(0), pong(waiting(""), 0)},
		{"ping-ones", "M37", "the greatest value", pingOf(1<<64 - 1), pong(waiting(""), 1<<64-1)},
		{"ping-between-data", "M37", "a PING between DATA", data("hel") + pingOf(1) + data("lo"), pong(waiting(hello), 1)},
		{"ping-newest", "M37", "the newest of three PINGs is answered at least", pingOf(9) + pingOf(5) + pingOf(7), pong(waiting(""), 7)},
		{"ping-behind-final", "M34 M43", "a PING behind FINAL_DATA is answered", data(hello) + final("") + pingOf(1), pong(clean(hello), 1)},
		{"ping-length-0", "M36", "a PING without a value", data(hello) + header(typePing, 0), malformed(hello)},
		{"ping-length-7", "M36", "a PING of seven bytes; they do not come", data(hello) + header(typePing, 7), malformed(hello)},
		{"ping-length-9", "M36", "a PING of nine bytes; they do not come", data(hello) + header(typePing, 9), malformed(hello)},
		{"ping-length-first", "M36", "the first capsule is a PING of nine bytes", header(typePing, 9), malformed("")},
		{"pong-length-0", "M36", "a PONG without a value", data(hello) + header(typePong, 0), malformed(hello)},
		{"pong-length-7", "M36", "a PONG of seven bytes; they do not come", data(hello) + header(typePong, 7), malformed(hello)},
		{"pong-length-9", "M36", "a PONG of nine bytes; they do not come", data(hello) + header(typePong, 9), malformed(hello)},
		{"pong-unsolicited", "M38", "a PONG without a PING", data("hel") + pongOf(1<<63) + data("lo") + final(""), clean(hello)},
		{"pong-many", "M38", "many PONGs without a PING", strings.Repeat(pongOf(1), 20) + final(hello), clean(hello)},
		{"pong-behind-final", "M34 M38", "a PONG behind FINAL_DATA", final(hello) + pongOf(1), open(clean(hello))},

		// Behind FINAL_DATA.
		{"behind-final-data", "M34 M42 M43", "DATA behind FINAL_DATA", final(hello) + data("x"), brokenBehind(hello)},
		{"behind-final-empty-data", "M34 M42", "empty DATA behind FINAL_DATA", final(hello) + data(""), brokenBehind(hello)},
		{"behind-final-final", "M34 M42", "a second FINAL_DATA", final(hello) + final(""), brokenBehind(hello)},
		{"behind-final-ping-length", "M36 M42 M43", "a malformed PING behind FINAL_DATA", final(hello) + header(typePing, 1), brokenBehind(hello)},
		{"behind-final-type-form", "M30 M42 M43", "a type in a longer form behind FINAL_DATA", final(hello) + varintOf(8, 7), brokenBehind(hello)},
		{"behind-final-unknown-long", "M35 M42 M43", "a long unknown capsule behind FINAL_DATA", final(hello) + header(7, 65537), brokenBehind(hello)},

		// Early ends.
		{"end-at-once", "M41", "nothing came", "", truncated("")},
		{"end-in-first-type", "M41", "an end inside the first type", "\xad\x70", truncated("")},
		{"end-in-type", "M41", "an end inside a type", data(hello) + "\xad\x70\xf1", truncated(hello)},
		{"end-in-length", "M41", "an end inside a length", data(hello) + varint(typeData) + "\x40", truncated(hello)},
		{"end-behind-header", "M41", "an end behind a header", data(hello) + header(typeData, 1), truncated(hello)},
		{"end-in-data", "M41", "an end inside a value", header(typeData, 6) + hello, truncated(hello)},
		{"end-behind-data", "M41", "an end between capsules", data(hello), truncated(hello)},
		{"end-in-ping", "M41", "an end inside a PING", data(hello) + pingOf(1)[:9], truncated(hello)},
		{"end-behind-ping", "M41", "an end behind a PING", data(hello) + pingOf(1), truncated(hello)},
		{"end-in-unknown", "M41", "an end inside an unknown capsule", data(hello) + header(7, 9) + "skip", truncated(hello)},
		{"end-in-final", "M41", "an end inside the value of FINAL_DATA", header(typeFinal, 6) + hello, truncated(hello)},
		{"end-in-final-header", "M41", "an end inside the header of FINAL_DATA", data(hello) + final("")[:4], truncated(hello)},
		{"reset-at-once", "M41", "a reset before anything came", "", reset(stream("", "reset"))},
		{"reset-behind-data", "M41", "a reset between capsules", data(hello), reset(stream(hello, "reset"))},
		{"reset-in-data", "M41", "a reset inside a value", header(typeData, 6) + hello, reset(stream(hello, "reset"))},
		{"reset-behind-final", "M42", "a reset behind FINAL_DATA", final(hello), reset(clean(hello))},

		// Behind a protocol error.
		{"error-then-data", "M47", "nothing is passed on behind a protocol error", data(hello) + header(typePing, 9) + data("no") + final(""), malformed(hello)},
		{"error-then-final", "M47", "FINAL_DATA behind a protocol error is no clean end", data(hello) + header(7, 65537) + final(""), malformed(hello)},
	}
	for _, r := range rows {
		all = append(all, r.vector(vectors.Capsules, "any"))
	}
	return all
}
