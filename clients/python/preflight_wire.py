"""What a client of spec/preflight.md reads from the wire: heads, capsules, WebSocket frames."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

DATA, FINAL_DATA, PING, PONG = OURS = (0x2D70F100, 0x2D70F101, 0x2D70F104, 0x2D70F105)
MAX_HEADS = 65536  # bytes of an answer, without its body
TOKEN, TEXT = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", r"[\t -~\x80-\xff]*"
FIELDS = rf"(?:{TOKEN}:{TEXT}\r?\n(?:[ \t]{TEXT}\r?\n)*)*"  # with folded lines
HEAD = rf"HTTP/1\.[0-9] ([1-9][0-9][0-9])(?: {TEXT})?\r?\n({FIELDS})\r?\n"


class ProtocolError(ConnectionError):
    """The peer, or a proxy, has broken the protocol."""

    close = 1002  # the code of the WebSocket Close
    falls = False  # whether the next carrier may be tried


def check(valid: object, text: str, **more: object) -> None:
    if not valid:
        error = ProtocolError(text)
        vars(error).update(more)
        raise error


class Response(NamedTuple):
    """The head of an answer."""

    status: int
    fields: list[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        return [v for n, v in self.fields if n.lower() == name.lower()]

    def members(self, name: str) -> list[str]:
        """The members of a list, which may extend over several fields."""
        return [m.strip(" \t") for m in ",".join(self.values(name)).split(",") if m.strip(" \t")]


async def read_answer(reader: asyncio.StreamReader) -> Response:
    """The answer behind the interim ones (4)."""
    room = MAX_HEADS
    for _ in range(9):
        try:
            head = b""
            for expected in b"HTTP/1.":  # one by one: a peer that is not HTTP may send less
                head += await reader.readexactly(1)
                check(head[-1] == expected, "the answer is not HTTP/1: check the port and the scheme")
            while not head.endswith((b"\n\n", b"\n\r\n")) and len(head) <= room:
                head += await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            raise ProtocolError("the connection ended inside the head of the answer") from None
        except asyncio.LimitOverrunError:
            room = 0
        room -= len(head)
        check(room >= 0, f"the heads of the answer are longer than {MAX_HEADS} bytes")
        match = re.fullmatch(HEAD, head.decode("latin-1"))
        if not match:
            raise ProtocolError("the answer has a malformed line or a control character")
        status, lines = int(match[1]), re.sub(r"\r?\n[ \t]+", " ", match[2]).splitlines()
        if status == 101 or status >= 200:
            fields = [line.partition(":") for line in lines]
            return Response(status, [(name, value.strip(" \t")) for name, _, value in fields])
    raise ProtocolError("more than 8 interim answers came")


class Decoder:
    """Reads capsules (5.2) that come in pieces of any size; if `masked` is not None, out of the
    WebSocket frames (6) of a client (True) or a server (False). A generator yields when it needs
    more bytes. Behind a ProtocolError or a Close, nothing is read any more."""

    final = False  # FINAL_DATA and all its bytes have come
    ping: bytes | None = None  # the value of the newest PING that is not answered
    pong = b""  # the value of the newest PONG
    ws_ping: bytes | None = None  # the payload of the newest Ping frame that is not answered
    close: bytes | None = None  # the body of the Close
    heard = 0  # how many bytes of capsules have come

    def __init__(self, deliver: Callable[[bytes], None], masked: bool | None = None) -> None:
        self._deliver, self._masked, self._came, self._at = deliver, masked, b"", 0
        self._inside, self._left, self._key = False, 0, bytes(4)  # of a message; of a frame
        self._steps = self._capsules()

    def feed(self, data: bytes) -> None:
        self._came, self._at = data, 0
        next(self._steps, None)

    def _raw(self, size: int) -> Generator[None, None, bytes]:
        """Between one byte and size."""
        while self._at == len(self._came):
            yield
        piece = self._came[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def _some(self, size: int) -> Generator[None, None, bytes]:
        """Between one byte of capsules and size."""
        if self._masked is None:
            piece = yield from self._raw(size)
        else:
            while not self._left:
                yield from self._frame()
            piece = mask((yield from self._raw(min(size, self._left))), self._key)
            turn = len(piece) % 4
            self._left, self._key = self._left - len(piece), self._key[turn:] + self._key[:turn]
        self.heard += len(piece)
        return piece

    def _all(self, size: int, some: Any = None) -> Generator[None, None, bytes]:
        value = b""
        while len(value) < size:
            value += yield from (some or self._some)(size - len(value))
        return value

    def _frame(self) -> Generator[None, None, None]:
        """Reads the header of a frame, or a control frame."""
        begin, second = yield from self._all(2, self._raw)
        opcode, last, size, key = begin & 15, begin >= 128, second & 127, bytes(4)
        known = not begin & 0x70 and opcode in (0, 1, 2, 8, 9, 10)
        check(known, "a frame has a reserved bit or opcode")
        check(opcode != 1, "a text message came instead of a binary one", close=1003)
        check(opcode > 2 or self._inside == (opcode == 0), "a message does not go on, or not begin")
        check((second >= 128) == self._masked, "a server masks, or a client does not")
        check(opcode < 8 or last and size < 126, "a control frame is fragmented or too long")
        if size > 125:
            width, shortest = (2, 126) if size == 126 else (8, 65536)
            size = int.from_bytes((yield from self._all(width, self._raw)))
            check(shortest <= size < 1 << 63, "the length of a frame is not in its shortest form")
        if self._masked:
            key = yield from self._all(4, self._raw)
        if opcode < 8:
            self._left, self._key, self._inside = size, key, not last
            return
        payload = mask((yield from self._all(size, self._raw)), key)
        if opcode == 9:
            self.ws_ping = payload
        elif opcode == 8:
            code = int.from_bytes(payload[:2]) if payload else 1000
            valid = 1000 <= code < 1004 or 1007 <= code < 1015 or 3000 <= code < 5000
            check(valid and len(payload) != 1, "a Close has a code that may not be sent")
            valid = payload[2:].decode(errors="ignore").encode() == payload[2:]
            check(valid, "a Close has a reason that is not UTF-8")
            self.close = payload
            while True:  # nothing follows a Close
                yield

    def _integer(self, begin: bytes = b"") -> Generator[None, None, tuple[int, int]]:
        begin = begin or (yield from self._all(1))
        size = 1 << (begin[0] >> 6)
        begin += yield from self._all(size - len(begin))
        return int.from_bytes(begin) & (1 << 8 * size - 2) - 1, size

    def _capsules(self) -> Generator[None, None, None]:
        begin = b""
        while len(begin) < 3:  # a peer that does not frame is noticed at once
            begin += yield from self._all(1)
            check(b"\xad\x70\xf1".startswith(begin), "the peer does not send capsules")
        while True:
            kind, size = yield from self._integer(begin)
            check(size == 1 or kind >= 1 << 4 * size - 2, "a type is not in its shortest form")
            check(not begin or kind in OURS, "the first capsule has an unknown type")
            left, begin = (yield from self._integer())[0], b""
            check(kind not in (PING, PONG) or left == 8, "a PING or PONG does not have 8 bytes")
            check(kind in OURS or left <= 65536, "a capsule of an unknown type is too long")
            check(kind not in (DATA, FINAL_DATA) or not self.final, "data came behind FINAL_DATA")
            if kind == PING:
                self.ping = yield from self._all(left)
            elif kind == PONG:
                self.pong = yield from self._all(left)
            else:
                while left:
                    piece = yield from self._some(left)
                    left -= len(piece)
                    if kind in OURS:
                        self._deliver(piece)
                self.final = self.final or kind == FINAL_DATA


def mask(data: bytes, key: bytes) -> bytes:
    if key == bytes(4):
        return data
    whole = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data) ^ int.from_bytes(whole)).to_bytes(len(data))


def frame(opcode: int, payload: bytes) -> bytes:
    size, key = len(payload), os.urandom(4)
    length = bytes([128 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes([128 | opcode]) + length + key + mask(payload, key)
