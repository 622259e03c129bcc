"""TCP through HTTP proxies: the client of spec/preflight.md for asyncio. See README.md."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import math
import os
import re
import ssl as tls
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ["ProtocolError", "Refused", "Response", "Truncated", "open_connection"]
DATA, FINAL_DATA, PING, PONG = OURS = (0x2D70F100, 0x2D70F101, 0x2D70F104, 0x2D70F105)
MAX_VALUE, MAX_HEADS, MAX_REASON = 32768, 65536, 4096  # bytes: of a DATA we send; of an answer
MEMORY = 900.0  # seconds for which the carrier that worked is remembered
TOKEN, TEXT = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", r"[\t -~\x80-\xff]*"
HEAD = rf"HTTP/1\.[0-9] ([1-9][0-9][0-9])(?: {TEXT})?\r\n((?:{TOKEN}:{TEXT}\r\n(?:[ \t]{TEXT}\r\n)*)*)\r\n"
OWNED = "preflight-|sec-websocket-|(connection|upgrade|content-length|transfer-encoding|trailer|expect)$"
worked: dict[tuple[Any, ...], tuple[str, float]] = {}  # the carrier that worked, and until when


class Truncated(ConnectionError):
    """The stream has ended early. Whatever came before the end was read before this error."""


class ProtocolError(ConnectionError):
    """The peer, or a proxy, has broken the protocol."""

    close, falls = 1002, False  # the code of a WebSocket Close; whether the next carrier may be tried


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


class Refused(ConnectionError):
    """An answer other than 101. `code` is the receipt; without one, no preflight server answered.

    `reason` is the begin of the body. It is not part of the text, as anybody can write it.
    """

    def __init__(self, response: Response, reason: str) -> None:
        self.response, self.status, self.reason = response, response.status, reason
        self.code = ", ".join(response.values("Preflight-Refusal"))[:40] or None
        self.carriers = response.members("Preflight-Carriers")
        falls = ("no-upgrade", "no-connection", "carrier")  # receipts behind which others are tried
        others = (200, *range(300, 400), 400, 403, 404, 405, 426, 501, 505)  # without a receipt
        self.falls = self.status in (others if not self.code else (400, 405, 426) if self.code in falls else ())
        who = f"by the server, with code {self.code}: see .reason" if self.code else (
            "by a proxy or another server: check the URL, and that proxies pass Upgrade on")
        super().__init__(f"the tunnel was refused with status {self.status} {who}")


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
        check(not begin & 0x70 and opcode in (0, 1, 2, 8, 9, 10), "a frame has a reserved bit or opcode")
        check(opcode != 1, "a text message came instead of a binary one", close=1003)
        check(opcode > 2 or self._inside == (opcode == 0), "a message is not continued, or not begun")
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
            text = payload[2:]
            check(text.decode(errors="ignore").encode() == text, "a Close has a reason not in UTF-8")
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


class Reader(asyncio.StreamReader):
    """Raises a fault behind the bytes that came before it, and never behind a clean end."""

    _fault: BaseException | None = None
    _clean = False

    def feed_eof(self) -> None:
        self._clean = self._clean or not self._fault
        super().feed_eof()

    def set_exception(self, exc: BaseException) -> None:
        self._fault = self._fault or exc
        super().feed_eof()

    def exception(self) -> Any:
        return self._fault  # StreamWriter.drain raises it

    async def _checked(self, reading: Awaitable[bytes]) -> bytes:
        short = None
        try:
            if data := await reading:
                return data
        except asyncio.IncompleteReadError as exc:
            short = exc
        if error := short if self._clean or not self._fault else self._fault:
            raise error
        return b""

    async def read(self, n: int = -1) -> bytes:
        return await self._checked(super().read(n))

    async def readexactly(self, n: int) -> bytes:
        return await self._checked(super().readexactly(n))

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        return await self._checked(super().readuntil(separator))


class Writer(asyncio.StreamWriter):
    """Its get_extra_info also knows `carrier`, and `response`, the head of the 101."""

    info: Mapping[str, Any] = {}
    pump: asyncio.Task[Any] | None = None  # of a tunnel

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.info[name] if name in self.info else super().get_extra_info(name, default)

    async def wait_closed(self) -> None:
        if self.pump is None:
            await super().wait_closed()
        elif fault := await asyncio.shield(self.pump):
            raise fault


class Tunnel(asyncio.Transport):
    """The transport of the application, on a carrier with capsules."""

    _wrote = _confirmed = _closing = _over = _ended = False
    _pings = _last = 0  # how many PINGs were sent; which of them stands behind our FINAL_DATA
    _timer: asyncio.TimerHandle | None = None
    _deadline = math.inf  # of close, and of what follows the end

    def __init__(self, websocket: bool, outer: tuple[Reader, Writer],
                 reader: Reader, times: tuple[float, float, float]) -> None:
        (self._in, self._out), self._reader, self._websocket = outer, reader, websocket
        self._keep_alive, self._max_idle, self._linger = times
        self._loop, self._reading = asyncio.get_running_loop(), asyncio.Event()
        self._spoke = self._loop.time()
        self._decoder = Decoder(self._deliver, False if websocket else None)
        for name in ("abort", "get_extra_info", "get_write_buffer_size", "set_write_buffer_limits"):
            setattr(self, name, getattr(self._out.transport, name))
        reader.set_transport(self)
        self.resume_reading()
        self._tick()

    async def pump(self) -> Any:
        """Reads until the socket ends, and returns what went wrong."""
        lost: Exception | None = None
        try:
            while data := await self._in.read(65536):
                if not self._over:
                    self._receive(data)
                await self._reading.wait()
        except OSError as exc:
            lost = exc
        self._end(lost=lost)
        with contextlib.suppress(OSError):
            if not self._out.is_closing():
                self._out.close()
            await self._out.wait_closed()
        if self._timer:
            self._timer.cancel()
        self._reader.feed_eof()
        return self._reader.exception()

    def _receive(self, data: bytes) -> None:
        fault, heard = None, self._decoder.heard
        try:
            self._decoder.feed(data)
        except ProtocolError as exc:
            fault = exc
        if self._decoder.heard > heard:
            self._heard = self._loop.time()
        if self._decoder.final:
            self._reader.feed_eof()
            self._reading.set()  # from now on, nothing is held back (M43)
        if fault:
            self._end(fault, fault.close.to_bytes(2))
        self._react()

    def _deliver(self, data: bytes) -> None:
        if not self._closing:  # else the application has given up
            self._reader.feed_data(data)

    def _react(self) -> None:
        """Sends the answers that are due, and ends what is complete."""
        decoder = self._decoder
        if not self._over and self._out.transport.get_write_buffer_size() < 65536:
            if decoder.ws_ping is not None:
                self._out.write(frame(10, decoder.ws_ping))
            if decoder.ping:
                self._send(PONG, decoder.ping)
            decoder.ping = decoder.ws_ping = None
        if self._last and self._last <= int.from_bytes(decoder.pong) <= self._pings:
            self._confirmed = True  # the peer has read everything
        if decoder.close is not None:
            self._end(body=decoder.close[:2])
        elif self._closing and decoder.final and self._confirmed and not decoder.ping:
            self._end()

    def _end(self, fault: Exception | None = None, body: bytes = b"\x03\xe8",
             lost: Exception | None = None) -> None:
        """Ends our direction. What comes behind it is not interpreted."""
        if self._over:
            return
        unread = not self._decoder.final and not self._closing
        if unread or self._wrote and not self._confirmed:
            fault = fault or lost or Truncated("the tunnel ended early: the peer or a proxy gave up")
        self._over, self._deadline = True, self._loop.time() + 2
        if fault:
            self._reader.set_exception(fault)
        if self._websocket:
            self._out.write(frame(8, body))
        if self._out.can_write_eof():
            with contextlib.suppress(OSError):  # the peer may have reset the connection
                self._out.write_eof()
        elif not self._out.is_closing():
            self._out.close()
        self.resume_reading()
        self._tick()

    def _tick(self) -> None:
        """Does what is due by the clock, and sets the timer anew."""
        if self._timer:
            self._timer.cancel()
        now = self._loop.time()
        if not self._reading.is_set():
            self._heard = now  # silence counts only while we read
        if now >= self._deadline and self._over:
            self._out.transport.abort()
        elif now >= self._deadline:
            self._end()
        elif now >= self._heard + self._max_idle and not self._over:
            self._end(TimeoutError(f"nothing came for {self._max_idle} s: the peer is gone"))
        else:
            due = self._deadline
            if not self._over:
                if now >= self._spoke + self._keep_alive:
                    self._ping()
                due = min(due, self._spoke + self._keep_alive, self._heard + self._max_idle)
            self._timer = self._loop.call_later(due - now, self._tick)

    def _send(self, kind: int, value: bytes = b"") -> None:
        size, form = len(value), 0 if len(value) < 64 else 1 if len(value) < 16384 else 2
        length = (size | form << 8 * 2**form - 2).to_bytes(2**form)
        capsule = (kind | 2 << 30).to_bytes(4) + length + value
        self._out.write(frame(2, capsule) if self._websocket else capsule)
        self._spoke = self._loop.time()

    def _ping(self) -> None:
        self._pings += 1
        self._send(PING, self._pings.to_bytes(8))

    # What the reader and the writer of the application call.

    def pause_reading(self) -> None:
        if not (self._decoder.final or self._closing or self._over):
            self._reading.clear()

    def resume_reading(self) -> None:
        self._heard = self._loop.time()
        self._reading.set()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._last:
            raise RuntimeError("write behind write_eof or close: the direction has ended")
        view = memoryview(data).cast("B")
        self._wrote = self._wrote or len(view) > 0
        for at in range(0, 0 if self._over else len(view), MAX_VALUE):  # if over, drain raises
            self._send(DATA, bytes(view[at : at + MAX_VALUE]))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._last and not self._over:
            self._send(FINAL_DATA)
            self._ping()
            self._last = self._pings

    def is_closing(self) -> bool:
        return self._closing or self._over

    def close(self) -> None:
        self.write_eof()
        if not self.is_closing():
            self._closing, self._deadline = True, self._loop.time() + self._linger
            self.resume_reading()
            self._react()
            self._tick()


async def read_answer(reader: Reader) -> Response:
    """The answer behind the interim ones (4)."""
    room = MAX_HEADS
    for _ in range(9):
        try:
            head = await reader.readexactly(7)
            check(head == b"HTTP/1.", "the answer is not HTTP/1: is this the right port and scheme?")
            head += await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            raise ProtocolError("the connection ended inside the head of the answer") from None
        except asyncio.LimitOverrunError:
            room = 0
        room -= len(head)
        check(room >= 0, f"the heads of the answer are longer than {MAX_HEADS} bytes")
        match = re.fullmatch(HEAD, head.decode("latin-1"))
        if not match:
            raise ProtocolError("the head of the answer has a malformed line or a control character")
        status, lines = int(match[1]), re.sub(r"\r\n[ \t]+", " ", match[2]).split("\r\n")[:-1]
        if status == 101 or status >= 200:
            return Response(status, [(n, v.strip(" \t")) for n, _, v in (f.partition(":") for f in lines)])
    raise ProtocolError("more than 8 interim answers came")


async def exchange(reader: Reader, writer: Writer, carriers: Sequence[str], protocol: str,
                   target: str, fields: Sequence[str]) -> Response:
    """Asks for the first of carriers. Returns the 101 when it has passed all checks."""
    carrier, websocket = carriers[0], carriers[0] == "websocket"
    key, token = base64.b64encode(os.urandom(16)).decode(), "websocket" if websocket else protocol
    lines = [f"GET {target} HTTP/1.1", *fields, "Connection: Upgrade", f"Upgrade: {token}",
             "Preflight-Carriers: " + ", ".join(carriers)]
    if carrier != "upgrade":
        lines += ["Preflight-Framing: capsule"]
    if websocket:
        lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
                  "Sec-WebSocket-Protocol: preflight.v1"]
    named = [protocol] if websocket and protocol != "tcp" else []
    lines += [f"Preflight-Protocol: {protocol}" for protocol in named]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    response = await read_answer(reader)
    status, values, members = response.status, response.values, response.members
    receipt = values("Preflight-Refusal")
    if status != 101:
        reason = b""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(1):
                while len(reason) < MAX_REASON and (piece := await reader.read(MAX_REASON)):
                    reason += piece
        raise Refused(response, reason[:MAX_REASON].decode(errors="replace"))
    tokens, listed = ([m.lower() for m in members(name)] for name in ("Upgrade", "Connection"))
    check(token in tokens, "the 101 does not have the Upgrade token we sent", falls=not receipt)
    check(len(tokens) == 1, "the 101 has several Upgrade tokens")
    check("upgrade" in listed, "the 101 does not list Upgrade in Connection")
    check(not values("Preflight-Tunnel"), "the 101 announces TLS inside, which was not asked for")
    if websocket:
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        accepted = values("Sec-WebSocket-Accept") == [base64.b64encode(digest).decode()]
        check(accepted, "the Sec-WebSocket-Accept of the 101 is missing, wrong or repeated")
        spoken = values("Sec-WebSocket-Protocol") == ["preflight.v1"]
        check(spoken, "the Sec-WebSocket-Protocol of the 101 is not preflight.v1")
        check(not members("Sec-WebSocket-Extensions"), "the 101 has a WebSocket extension")
        check(values("Preflight-Protocol") == named, "the 101 is for another protocol")
    elif carrier == "framed":
        check(set(members("Preflight-Framing")) == {"capsule"}, "the 101 does not confirm framing")
    else:
        check(not values("Preflight-Framing"), "the 101 announces framing, which was not asked for")
    return response


async def open_connection(
    url: str, *, headers: Mapping[str, str] | None = None, carriers: Sequence[str] | None = None,
    ssl: tls.SSLContext | None = None, protocol: str = "tcp", limit: int = 65536,
    keep_alive: float | None = 20.0, max_idle: float | None = None, linger: float = 60.0,
    **connect: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Opens a tunnel to an http or https URL. README.md describes the parameters."""
    parts = urlsplit(url)
    if not re.fullmatch(r"(?i)https?://[!-?A-~]+", url) or not parts.hostname:
        raise ValueError("the URL is not http or https, or has a userinfo or a special character")
    secure, host, fields = parts.scheme == "https", parts.netloc, []
    for name, value in (headers or {}).items():
        if not re.fullmatch(TOKEN, name) or not re.fullmatch(TEXT, value) or re.match(OWNED, name.lower()):
            raise ValueError(f"the field {name!r} is malformed, or belongs to the exchange")
        if name.lower() == "host":
            host = value
        else:
            fields.append(f"{name}: {value}")
    order = list(dict.fromkeys(carriers or ("upgrade", "websocket")))
    if not set(order) <= {"upgrade", "framed", "websocket"}:
        raise ValueError("the carriers are upgrade, framed and websocket")
    if not re.fullmatch(TOKEN, protocol) or protocol != protocol.lower() or protocol == "websocket":
        raise ValueError("a protocol is a token in lower case, and not websocket")
    if secure:
        ssl = ssl or tls.create_default_context()
        ssl.set_alpn_protocols(["http/1.1"])
        connect.setdefault("server_hostname", urlsplit(f"//{host}").hostname)
    elif ssl:
        raise ValueError("ssl needs an https URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or (443 if secure else 80)
    place = (parts.scheme, parts.hostname, port, host.lower(), parts.path)
    carrier, until = worked.get(place, ("", 0.0))
    if carrier in order and time.monotonic() < until:
        order.remove(carrier)
        order.insert(0, carrier)
    loop = asyncio.get_running_loop()
    while True:
        reader = Reader(max(limit, MAX_HEADS), loop)
        lower = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(
            lambda: lower, parts.hostname, port, ssl=ssl, **connect)
        writer = Writer(transport, lower, reader, loop)
        try:
            response = await exchange(reader, writer, order, protocol, target, [f"Host: {host}", *fields])
            break
        except BaseException as exc:
            transport.abort()
            if not order[1:] or not getattr(exc, "falls", False):
                raise
            del order[0]
    info = {"carrier": order[0], "response": response}
    if order[0] != carrier:
        worked[place] = (order[0], time.monotonic() + MEMORY)
    if order[0] != "upgrade":
        times = (keep_alive or math.inf, max_idle or math.inf, linger)
        outer, reader = (reader, writer), Reader(limit, loop)
        tunnel = Tunnel(order[0] == "websocket", outer, reader, times)
        writer = Writer(tunnel, lower, reader, loop)
        writer.pump = loop.create_task(tunnel.pump())
    writer.info = info
    return reader, writer
