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
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from preflight_wire import (
    DATA, FINAL_DATA, MAX_HEADS, PING, PONG, TEXT, TOKEN, Decoder, ProtocolError, Response, check,
    frame, read_answer,
)

__all__ = ["ProtocolError", "Refused", "Response", "Truncated", "open_connection"]
MAX_VALUE, MAX_REASON = 32768, 4096  # bytes: of a DATA that we send; of the body of a refusal
NORMAL = (1000).to_bytes(2)  # the body of a Close in front of an end without an error
GRACE = 2.0  # seconds for which we read without interpreting, behind our end
MEMORY = 900.0  # seconds for which the carrier that worked is remembered
OWNED = r"preflight-|sec-websocket-|(connection|upgrade|content-length|transfer-encoding)$|" \
        r"(trailer|expect)$"  # fields that belong to the exchange (M2, M4)
worked: dict[tuple[Any, ...], tuple[str, float]] = {}  # the carrier that worked, and until when


class Truncated(ConnectionError):
    """The stream has ended early. Whatever came before the end was read before this error."""


class Refused(ConnectionError):
    """An answer other than 101. `code` is the receipt; without one, no preflight server answered.

    `reason` is the begin of the body. It is not part of the text, as anybody can write it.
    """

    reason = ""

    def __init__(self, response: Response) -> None:
        self.response, self.status = response, response.status
        self.carriers = response.members("Preflight-Carriers")
        receipt = response.values("Preflight-Refusal")
        self.code = ", ".join(receipt)[:40] if receipt else None
        if self.code is not None:
            ours = self.code in ("no-upgrade", "no-connection", "carrier")
            self.falls = ours and self.status in (400, 405, 426)  # the next carrier may be tried
            who = f"the server, code {self.code!a}: .reason says why"
        else:
            others = (200, *range(300, 400), 400, 403, 404, 405, 426, 501, 505)
            self.falls = self.status in others
            who = "a proxy or another server: check the URL, and that proxies pass Upgrade on"
        super().__init__(f"the tunnel was refused with status {self.status} by {who}")

    async def read_reason(self, reader: asyncio.StreamReader) -> None:
        body, length = b"", ",".join(self.response.values("Content-Length"))
        most = min(int(length), MAX_REASON) if re.fullmatch("[0-9]{1,9}", length) else MAX_REASON
        with contextlib.suppress(OSError):  # a proxy may keep the connection open behind the body
            async with asyncio.timeout(1):
                while len(body) < most and (piece := await reader.read(MAX_REASON)):
                    body += piece
        self.reason = body[:most].decode(errors="replace")


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

    async def _behind(self, reading: Awaitable[bytes]) -> bytes:
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
        return await self._behind(super().read(n))

    async def readexactly(self, n: int) -> bytes:
        return await self._behind(super().readexactly(n))

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        return await self._behind(super().readuntil(separator))


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

    _wrote = _confirmed = _closing = _over = False
    _pings = _last = 0  # how many PINGs were sent; which of them stands behind our FINAL_DATA
    _timer: asyncio.TimerHandle | None = None
    _deadline = math.inf  # of close, and of what follows the end

    def __init__(self, websocket: bool, reader: Reader, outer: tuple[Reader, Writer],
                 keep_alive: float, max_idle: float, linger: float) -> None:
        self._websocket, self._reader, (self._in, self._out) = websocket, reader, outer
        self._keep_alive, self._max_idle, self._linger = keep_alive, max_idle, linger
        self._decoder = Decoder(self._deliver, False if websocket else None)
        self._loop, self._reading = asyncio.get_running_loop(), asyncio.Event()
        for name in ("abort", "get_extra_info", "get_write_buffer_size", "set_write_buffer_limits"):
            setattr(self, name, getattr(self._out.transport, name))
        self._spoke = self._loop.time()
        self.resume_reading()
        self._tick()
        reader.set_transport(self)

    async def pump(self) -> Any:
        """Reads until the socket ends, and returns what went wrong."""
        lost: Exception | None = None
        try:
            while data := await self._in.read(65536):
                if not self._over:
                    self._receive(data)
                if not (self._decoder.final or self.is_closing()):  # else nothing is held back
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
        heard = self._decoder.heard
        try:
            self._decoder.feed(data)
        except ProtocolError as exc:
            if self._decoder.final:
                self._reader.feed_eof()
            self._end(exc, exc.close.to_bytes(2))
        if self._decoder.heard > heard:
            self._heard = self._loop.time()
        if self._decoder.final:
            self._reader.feed_eof()
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

    def _end(self, fault: Exception | None = None, body: bytes = NORMAL,
             lost: Exception | None = None) -> None:
        """Ends our direction. What comes behind it is not interpreted."""
        if self._over:
            return
        unread = not self._decoder.final and not self._closing
        if unread or self._wrote and not self._confirmed:
            fault = fault or lost or Truncated("the tunnel ended early: the peer or a proxy quit")
        self._over, self._deadline = True, self._loop.time() + GRACE
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
            if now >= self._spoke + self._keep_alive and not self._over:
                self._ping()
            self._react()
            idle = min(self._spoke + self._keep_alive, self._heard + self._max_idle)
            due = self._deadline if self._over else min(self._deadline, idle)
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
        self._reading.clear()

    def resume_reading(self) -> None:
        self._heard = self._loop.time()
        self._reading.set()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._last:
            raise RuntimeError("write behind write_eof or close: the direction has ended")
        self._react()  # a PONG that waited for room goes first (M39)
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
    if response.status != 101:
        refused = Refused(response)
        if not refused.falls or not carriers[1:]:
            await refused.read_reason(reader)
        raise refused
    values, members = response.values, response.members
    tokens, listed = ([m.lower() for m in members(name)] for name in ("Upgrade", "Connection"))
    check(tokens == [token], "the 101 does not have the Upgrade token we sent, and no other",
          falls=not values("Preflight-Refusal"))
    check("upgrade" in listed, "the 101 does not list Upgrade in Connection")
    check(not values("Preflight-Tunnel"), "the 101 announces TLS inside, which was not asked for")
    if websocket:
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        accepted = values("Sec-WebSocket-Accept") == [base64.b64encode(digest).decode()]
        check(accepted, "the Sec-WebSocket-Accept of the 101 is missing, wrong or repeated")
        spoken = values("Sec-WebSocket-Protocol") == ["preflight.v1"]
        check(spoken, "the Sec-WebSocket-Protocol of the 101 is not preflight.v1")
        extensions = values("Sec-WebSocket-Extensions")
        check(extensions in ([], [""]), "the 101 has a WebSocket extension, or repeats the field")
        check([v.lower() for v in values("Preflight-Protocol")] == named, "the 101 is for another protocol")
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
    if not re.fullmatch(r"(?i)https?://[!-~]+", url) or not parts.hostname or "@" in parts.netloc:
        raise ValueError("the URL is not http or https, or has a userinfo or a special character")
    secure, host, fields = parts.scheme == "https", parts.netloc, []
    for name, value in (headers or {}).items():
        valid = re.fullmatch(TOKEN, name) and re.fullmatch(TEXT, value)
        if not valid or re.match(OWNED, name.lower()):
            raise ValueError(f"the field {name!r} is malformed, or belongs to the exchange")
        if name.lower() == "host":
            host = value
        else:
            fields.append(f"{name}: {value}")
    fields.insert(0, f"Host: {host}")
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
            response = await exchange(reader, writer, order, protocol, target, fields)
            break
        except BaseException as exc:
            transport.abort()
            if not order[1:] or not getattr(exc, "falls", False):
                raise
            del order[0]
    info = {"carrier": order[0], "response": response}
    if order[0] != carrier or time.monotonic() >= until:
        if len(worked) >= 1000:  # so that it does not grow with the number of paths
            worked.clear()
        worked[place] = (order[0], time.monotonic() + MEMORY)
    if order[0] != "upgrade":
        outer, reader = (reader, writer), Reader(limit, loop)
        tunnel = Tunnel(order[0] == "websocket", reader, outer,
                        keep_alive or math.inf, max_idle or math.inf, linger)
        writer = Writer(tunnel, lower, reader, loop)
        writer.pump = loop.create_task(tunnel.pump())
    writer.info = info
    return reader, writer
