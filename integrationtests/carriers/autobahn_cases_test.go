package carriers_test

import (
	"encoding/binary"
	"slices"
	"strings"
)

// An autobahnCase is a case of Autobahn's test suite for WebSocket, with its number. The
// suite sends text and expects an echo. A tunnel uses capsules in binary messages. So here the
// frames contain capsules, and the test compares what the application reads. This leads to
// some differences:
//
//   - text is refused with 1003 (cases 1.1, 6);
//   - the boundaries of messages have no meaning, so the data before an error inside a
//     message is still passed on;
//   - if there are many Pings, only the newest must be answered, which RFC 6455 §5.5.3 allows;
//   - compression (cases 12, 13) is never negotiated, so the cases 3 cover it.
//
// A case in which neither fails nor closes is set ends with FINAL_DATA.
type autobahnCase struct {
	name   string
	frames []wsFrame
	data   string  // what the application reads
	pong   *string // the payload of the last Pong; nil: there is none
	fails  string  // a part of the text of a protocol error, which Read returns
	code   int     // the code of the Close frame for this error; 0: 1002
	closes string  // the payload of the Close frame that answers the peer's
	gone   bool    // the peer has ended both directions in order; the only answer is a Close
}

// ends reports whether both directions end in order.
func (c autobahnCase) ends() bool { return c.fails == "" && c.closes == "" && !c.gone }

// answer returns the payload of the Close frame that the peer receives.
func (c autobahnCase) answer() string {
	switch {
	case c.closes != "":
		return c.closes
	case c.fails == "":
		return closeCode(1000)
	case c.code != 0:
		return closeCode(c.code)
	}
	return closeCode(1002)
}

func (c autobahnCase) pings() (n int) {
	for _, f := range c.frames {
		if f.first == 0x89 {
			n++
		}
	}
	return n
}

func closeCode(code int) string { return string(binary.BigEndian.AppendUint16(nil, uint16(code))) }

// message returns a frame that is a binary message.
func message(payload string) wsFrame { return wsFrame{first: 0x82, payload: payload} }

// dataOf returns a binary message that contains a DATA capsule.
func dataOf(s string) wsFrame { return message(capsuleOf(capsuleData, s)) }

// fragmentsOf returns a binary message in n fragments. Some boundaries are inside the header of
// a capsule.
func fragmentsOf(s string, n int) (frames []wsFrame) {
	b := capsuleOf(capsuleData, s)
	for i := range n {
		f := wsFrame{payload: b[i*len(b)/n : (i+1)*len(b)/n]}
		if i == 0 {
			f.first = 0x02
		}
		if i == n-1 {
			f.first |= 0x80
		}
		frames = append(frames, f)
	}
	return frames
}

func pingOf(s string) wsFrame  { return wsFrame{first: 0x89, payload: s} }
func closeOf(s string) wsFrame { return wsFrame{first: 0x88, payload: s} }

// list joins frames and slices of them.
func list(frames ...any) (all []wsFrame) {
	for _, f := range frames {
		switch f := f.(type) {
		case wsFrame:
			all = append(all, f)
		case []wsFrame:
			all = append(all, f...)
		}
	}
	return all
}

// The texts of the errors.
const (
	saysText         = "a WebSocket text message"
	saysRSV          = "a reserved bit is set"
	saysOpcode       = "a reserved opcode"
	saysLong         = "control frame is longer than 125 bytes"
	saysFragmented   = "control frame is fragmented"
	saysContinuation = "a WebSocket continuation frame without a message"
	saysInterleaved  = "a WebSocket message begins inside another"
	saysCloseLength  = "the body of a WebSocket Close frame is one byte"
	saysCloseCode    = "a code that must not be sent"
	saysCloseReason  = "is not UTF-8"
	saysLengthForm   = "is not in its shortest form"
	saysLengthSign   = "is negative"
)

var (
	bytes125 = strings.Repeat("\xfe", 125)
	noPong   = ""
	cases5   = fragmentsOf("fragment1fragment2", 2)
)

func pongOf(s string) *string { return &s }

// sized is case 1.2: a binary message of n bytes, which contains one capsule.
func sized(name string, n int) autobahnCase {
	value := strings.Repeat("\xfe", n-len(capsuleOf(capsuleData, "")))
	return autobahnCase{name: name, frames: list(dataOf(value)), data: value}
}

func textOf(name string, n int) autobahnCase {
	return autobahnCase{name: name, frames: list(wsFrame{first: 0x81, payload: strings.Repeat("*", n)}), fails: saysText, code: 1003}
}

var autobahnCases = slices.Concat([]autobahnCase{
	textOf("1.1.1 text of 0 bytes", 0), textOf("1.1.2 text of 125 bytes", 125), textOf("1.1.3 text of 126 bytes", 126),
	textOf("1.1.4 text of 127 bytes", 127), textOf("1.1.5 text of 128 bytes", 128), textOf("1.1.6 text of 65535 bytes", 65535),
	textOf("1.1.7 text of 65536 bytes", 65536),

	{name: "1.2.1 message of 0 bytes", frames: list(message(""), dataOf("A"), message("")), data: "A"},
	sized("1.2.2 message of 125 bytes", 125), sized("1.2.3 message of 126 bytes", 126), sized("1.2.4 message of 127 bytes", 127),
	sized("1.2.5 message of 128 bytes", 128), sized("1.2.6 message of 65535 bytes", 65535), sized("1.2.7 message of 65536 bytes", 65536),

	{name: "2.1 Ping without payload", frames: list(pingOf("")), pong: &noPong},
	{name: "2.2 Ping with text", frames: list(pingOf("Hello, world!")), pong: pongOf("Hello, world!")},
	{name: "2.3 Ping with bytes", frames: list(pingOf("\x00\xff\xfe\xfd\xfc\xfb\x00\xff")), pong: pongOf("\x00\xff\xfe\xfd\xfc\xfb\x00\xff")},
	{name: "2.4 Ping of 125 bytes", frames: list(pingOf(bytes125)), pong: &bytes125},
	{name: "2.5 Ping of 126 bytes", frames: list(pingOf(bytes125 + "\xfe")), fails: saysLong},
	{name: "2.7 unsolicited Pong", frames: list(wsFrame{first: 0x8a})},
	{name: "2.8 unsolicited Pong with payload", frames: list(wsFrame{first: 0x8a, payload: "unsolicited"})},
	{name: "2.9 unsolicited Pong, then Ping", frames: list(wsFrame{first: 0x8a, payload: "unsolicited"}, pingOf("ping")), pong: pongOf("ping")},
	{name: "2.10 ten Pings", frames: list(pingOf("0"), pingOf("1"), pingOf("2"), pingOf("3"), pingOf("4"),
		pingOf("5"), pingOf("6"), pingOf("7"), pingOf("8"), pingOf("9")), pong: pongOf("9")},

	{name: "3.1 RSV 1", frames: list(wsFrame{first: 0x92, payload: "*"}), fails: saysRSV},
	{name: "3.2 RSV 2 after data", frames: list(dataOf("A"), wsFrame{first: 0xa2, payload: "*"}, pingOf("")), data: "A", fails: saysRSV},
	{name: "3.3 RSV 3 after data", frames: list(dataOf("A"), wsFrame{first: 0xb2, payload: "*"}, pingOf("")), data: "A", fails: saysRSV},
	{name: "3.4 RSV 4 after data", frames: list(dataOf("A"), wsFrame{first: 0xc2, payload: "*"}, pingOf("")), data: "A", fails: saysRSV},
	{name: "3.5 RSV 5", frames: list(wsFrame{first: 0xd2, payload: "*"}), fails: saysRSV},
	{name: "3.6 RSV 6 in a Ping", frames: list(wsFrame{first: 0xe9, payload: "*"}), fails: saysRSV},
	{name: "3.7 RSV 7 in a Close", frames: list(wsFrame{first: 0xf8, payload: closeCode(1000)}), fails: saysRSV},

	{name: "5.1 Ping in two fragments", frames: list(wsFrame{first: 0x09, payload: "fragment1"}, wsFrame{first: 0x80, payload: "fragment2"}), fails: saysFragmented},
	{name: "5.2 Pong in two fragments", frames: list(wsFrame{first: 0x0a, payload: "fragment1"}, wsFrame{first: 0x80, payload: "fragment2"}), fails: saysFragmented},
	{name: "5.3 message in two fragments", frames: cases5, data: "fragment1fragment2"},
	{name: "5.6 Ping between fragments", frames: list(cases5[0], pingOf("ping payload"), cases5[1]), data: "fragment1fragment2", pong: pongOf("ping payload")},
	{name: "5.9 continuation of nothing", frames: list(wsFrame{first: 0x80, payload: "x"}, dataOf("A")), fails: saysContinuation},
	{name: "5.12 continuation of nothing, not final", frames: list(wsFrame{payload: "x"}, dataOf("A")), fails: saysContinuation},
	{name: "5.15 continuation after fragments", frames: list(fragmentsOf("A", 2), wsFrame{payload: "x"}, dataOf("B")), data: "A", fails: saysContinuation},
	{name: "5.16 continuation, not final, before fragments", frames: list(wsFrame{payload: "x"}, fragmentsOf("A", 2)), fails: saysContinuation},
	{name: "5.17 continuation, final, before fragments", frames: list(wsFrame{first: 0x80, payload: "x"}, fragmentsOf("A", 2)), fails: saysContinuation},
	{name: "5.18 message inside a message", frames: list(wsFrame{first: 0x02, payload: capsuleOf(capsuleData, "A")}, dataOf("B")), data: "A", fails: saysInterleaved},
	{name: "5.19 five fragments and two Pings", frames: list(fragmentsOf("ABCDE", 5)[:2], pingOf("a"), fragmentsOf("ABCDE", 5)[2:4], pingOf("b"), fragmentsOf("ABCDE", 5)[4]),
		data: "ABCDE", pong: pongOf("b")},
	{name: "5.x text inside a message", frames: list(wsFrame{first: 0x02, payload: capsuleOf(capsuleData, "A")}, wsFrame{first: 0x81}), data: "A", fails: saysInterleaved},
	{name: "5.x empty fragments", frames: list(wsFrame{first: 0x02}, wsFrame{}, wsFrame{payload: capsuleOf(capsuleData, "A")}, wsFrame{}, wsFrame{first: 0x80}), data: "A"},

	{name: "6.2 text in fragments", frames: list(wsFrame{first: 0x01, payload: "Hello"}, wsFrame{first: 0x80, payload: "!"}), fails: saysText, code: 1003},
	{name: "6.3 text that is not UTF-8", frames: list(wsFrame{first: 0x81, payload: "\xce\xba\xe1\xbd\xb9\xed\xa0\x80"}), fails: saysText, code: 1003},
	{name: "6.x text after data", frames: list(dataOf("A"), wsFrame{first: 0x81, payload: "text"}), data: "A", fails: saysText, code: 1003},

	{name: "7.1.1 Close", frames: list(dataOf("A"), closeOf(closeCode(1000))), data: "A", closes: closeCode(1000)},
	{name: "7.1.2 two Closes", frames: list(closeOf(closeCode(1000)), closeOf(closeCode(1001))), closes: closeCode(1000)},
	{name: "7.1.3 Ping after Close", frames: list(closeOf(closeCode(1000)), pingOf("")), closes: closeCode(1000)},
	{name: "7.1.4 data after Close", frames: list(closeOf(closeCode(1000)), dataOf("A")), closes: closeCode(1000)},
	{name: "7.1.5 Close inside a message", frames: list(cases5[0], closeOf(closeCode(1000)), cases5[1]), data: "fra", closes: closeCode(1000)},
	{name: "7.1.6 256 KiB, then Close and Ping", frames: list(dataOf(strings.Repeat("BAsd7&jh23", 26214)), closeOf(closeCode(1000)), pingOf("")),
		data: strings.Repeat("BAsd7&jh23", 26214), closes: closeCode(1000)},

	{name: "7.3.1 Close without payload", frames: list(closeOf("")), closes: "no code"},
	{name: "7.3.2 Close of one byte", frames: list(closeOf("a")), fails: saysCloseLength},
	{name: "7.3.3 Close with a code", frames: list(closeOf(closeCode(1000))), closes: closeCode(1000)},
	{name: "7.3.4 Close with a reason", frames: list(closeOf(closeCode(1000) + "Hello World!")), closes: closeCode(1000)},
	{name: "7.3.5 Close with the longest reason", frames: list(closeOf(closeCode(1000) + strings.Repeat("*", 123))), closes: closeCode(1000)},
	{name: "7.3.6 Close with a longer reason", frames: list(closeOf(closeCode(1000) + strings.Repeat("*", 124))), fails: saysLong},
	{name: "7.5.1 Close with a reason that is not UTF-8", frames: list(closeOf(closeCode(1000) + "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited")), fails: saysCloseReason},
	{name: "7.5.x reason in UTF-8", frames: list(closeOf(closeCode(1000) + "κόσμε")), closes: closeCode(1000)},
	{name: "7.x Close after FINAL_DATA", frames: list(message(capsuleOf(capsuleFinal, "A")), closeOf(closeCode(1000))), data: "A", gone: true},

	{name: "9.1.1 message of 64 KiB", frames: list(dataOf(strings.Repeat("9", 64<<10))), data: strings.Repeat("9", 64<<10)},
	{name: "9.1.2 message of 256 KiB", frames: list(dataOf(strings.Repeat("9", 256<<10))), data: strings.Repeat("9", 256<<10)},
	{name: "9.3.1 64 KiB in fragments of 64 bytes", frames: fragmentsOf(strings.Repeat("9", 64<<10), 1024), data: strings.Repeat("9", 64<<10)},
	{name: "9.7.1 a thousand messages of 0 bytes", frames: list(slices.Repeat(list(message("")), 1000))},
	{name: "9.8.2 a thousand messages of 16 bytes", frames: list(slices.Repeat(list(dataOf("9999")), 1000)), data: strings.Repeat("9999", 1000)},

	// Cases that are not in the suite.
	{name: "masking by the wrong side", frames: list(wsFrame{first: 0x82, payload: capsuleOf(capsuleData, "A"), flip: true}), fails: "masked"},
	{name: "masking of a Close by the wrong side", frames: list(wsFrame{first: 0x88, flip: true}), fails: "masked"},
	{name: "125 bytes in 2 bytes of length", frames: list(wsFrame{first: 0x82, payload: bytes125, form: 126}), fails: saysLengthForm},
	{name: "126 bytes in 8 bytes of length", frames: list(wsFrame{first: 0x82, payload: bytes125 + "\xfe", form: 127}), fails: saysLengthForm},
	{name: "a negative length", frames: list(wsFrame{first: 0x82, payload: "A", form: 127, length: 1 << 63}), fails: saysLengthSign},
	{name: "a Ping in 2 bytes of length", frames: list(wsFrame{first: 0x89, payload: "A", form: 126}), fails: saysLong},
	{name: "a fragmented Close", frames: list(wsFrame{first: 0x08, payload: closeCode(1000)}), fails: saysFragmented},
	{name: "a peer that does not frame", frames: list(message("SSH-2.0-OpenSSH")), fails: "does not begin with a capsule"},
}, opcodes(), codes())

// opcodes returns the cases 4: reserved opcodes, alone and after data.
func opcodes() (cases []autobahnCase) {
	for i, opcode := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		name := "4." + string(rune('1'+i/5)) + "." + string(rune('1'+i%5)) + " reserved opcode"
		reserved := wsFrame{first: 0x80 | opcode, payload: strings.Repeat("*", i%2)}
		if i%5 < 2 {
			cases = append(cases, autobahnCase{name: name, frames: list(reserved), fails: saysOpcode})
		} else {
			cases = append(cases, autobahnCase{name: name, frames: list(dataOf("A"), reserved, pingOf("")), data: "A", fails: saysOpcode})
		}
	}
	return cases
}

// codes returns the cases 7.7, 7.9 and 7.13: the codes of Close frames.
func codes() (cases []autobahnCase) {
	for name, code := range map[string]int{
		"7.7.1 code 1000": 1000, "7.7.2 code 1001": 1001, "7.7.3 code 1002": 1002, "7.7.4 code 1003": 1003, "7.7.5 code 1007": 1007,
		"7.7.6 code 1008": 1008, "7.7.7 code 1009": 1009, "7.7.8 code 1010": 1010, "7.7.9 code 1011": 1011, "7.7.10 code 3000": 3000,
		"7.7.11 code 3999": 3999, "7.7.12 code 4000": 4000, "7.7.13 code 4999": 4999,
		"7.7.x code 1012": 1012, "7.7.x code 1013": 1013, "7.7.x code 1014": 1014, // registered after the suite was written
	} {
		cases = append(cases, autobahnCase{name: name, frames: list(closeOf(closeCode(code))), closes: closeCode(code)})
	}
	for name, code := range map[string]int{
		"7.9.1 code 0": 0, "7.9.2 code 999": 999, "7.9.3 code 1004": 1004, "7.9.4 code 1005": 1005, "7.9.5 code 1006": 1006,
		"7.9.6 code 1016": 1016, "7.9.7 code 1100": 1100, "7.9.8 code 2000": 2000, "7.9.9 code 2999": 2999,
		"7.9.x code 1015": 1015, "7.13.1 code 5000": 5000, "7.13.2 code 65535": 65535,
	} {
		cases = append(cases, autobahnCase{name: name, frames: list(closeOf(closeCode(code))), fails: saysCloseCode})
	}
	return cases
}
