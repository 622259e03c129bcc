"""TCP through HTTP proxies for asyncio. M1 to M80, and sections, are those of spec/preflight.md."""

import asyncio, base64, contextlib, hashlib, math, os, re, time, ssl as tls  # noqa: E401
from typing import Any, Awaitable, Mapping, NamedTuple, Sequence
from urllib.parse import urlsplit

__all__ = ["ProtocolError", "Refused", "Response", "Truncated", "open_connection"]
DATA, FINAL_DATA, PING, PONG = OURS = (0x2D70F100, 0x2D70F101, 0x2D70F104, 0x2D70F105)
BINARY, CLOSE, WS_PING, WS_PONG = 2, 8, 9, 10  # opcodes
CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}  # of a Close (M60)
FIRST, LAST = bytes(8), (1).to_bytes(8)  # PINGs in front of our FINAL_DATA, and behind it (M44)
GRACE, MEMORY, MAX_HEADS, ROOM = 2.0, 900.0, 65536, 65536  # seconds: M47, M70; bytes: M24, M39
TOKEN, TEXT = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", r"[\t -~\x80-\xff]*"
FIELDS = rf"(?:{TOKEN}:{TEXT}\r?\n(?:[ \t]{TEXT}\r?\n)*)*"  # with folded lines
HEAD = rf"HTTP/1\.[0-9] ([1-9][0-9][0-9])(?: {TEXT})?\r?\n({FIELDS})\r?\n"
NAME = r"(?i)(?!(preflight-.*|sec-websocket-.*|connection|upgrade|content-length|trailer|expect|" \
       rf"transfer-encoding)$){TOKEN}"  # of a field that the application may set (M4)
worked: dict[tuple[Any, ...], tuple[str, float]] = {}  # the carrier that worked, and until when

class ProtocolError(ConnectionError):
    """The peer, or a proxy, has broken the protocol."""
    close, falls = (1002).to_bytes(2), False  # of the Close; whether to try the next carrier

class Truncated(ConnectionError):
    """The stream has ended early. Whatever came before the end was read before this error."""

def check(valid: object, text: str, error: type[Exception] = ProtocolError, **more: object) -> None:
    if not valid:
        exc = error(text)
        vars(exc).update(more)
        raise exc

class Response(NamedTuple):
    """The head of an answer."""
    status: int
    fields: list[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        return [v for n, v in self.fields if n.lower() == name.lower()]
    def members(self, name: str) -> list[str]:  # of a list, which may extend over several fields
        return [m.strip(" \t") for m in ",".join(self.values(name)).split(",") if m.strip(" \t")]

class Refused(ConnectionError):
    """An answer other than 101. `code` is the receipt; without one, no preflight server answered.
    `reason` is the begin of the body. It is not part of the text, as anybody can write it."""
    def __init__(self, response: Response) -> None:
        self.response, self.status, self.reason = response, response.status, ""
        self.carriers = response.members("Preflight-Carriers")
        receipt = response.values("Preflight-Refusal")
        self.code = ", ".join(receipt)[:40] if receipt else None
        ours = self.code in ("no-upgrade", "no-connection", "carrier")
        others = self.status in (200, *range(300, 400), 400, 403, 404, 405, 426, 501, 505)
        self.falls = ours and self.status in (400, 405, 426) if receipt else others  # M67, M68
        who = f"the server, code {self.code!a}: .reason says why" if receipt else \
            "a proxy or another server: check the URL, and that proxies pass Upgrade on"
        super().__init__(f"the tunnel was refused with status {self.status} by {who}")

class Reader(asyncio.StreamReader):
    """Raises a fault behind the bytes that came before it, and never behind a clean end."""
    _fault: BaseException | None = None
    clean = False  # the end is a clean one, whatever follows

    def set_exception(self, exc: BaseException) -> None:
        self._fault = self._fault or exc
        super().feed_eof()
    def exception(self) -> Any:
        return self._fault  # StreamWriter.drain raises it

    async def _behind(self, reading: Awaitable[bytes]) -> bytes:
        try:
            data = await reading
        except asyncio.IncompleteReadError as exc:
            raise exc if self.clean or not self._fault else self._fault
        if not data and self._fault and not self.clean:
            raise self._fault
        return data

    async def read(self, n: int = -1) -> bytes:
        return await self._behind(super().read(n))
    async def readexactly(self, n: int) -> bytes:
        return await self._behind(super().readexactly(n))
    async def readuntil(self, separator: Any = b"\n") -> bytes:
        return await self._behind(super().readuntil(separator))

class Writer(asyncio.StreamWriter):
    """Its get_extra_info also knows `carrier`, and `response`, the head of the 101."""
    info: Mapping[str, Any] = {}
    pump: asyncio.Task[Any] | None = None  # of a Tunnel

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.info[name] if name in self.info else super().get_extra_info(name, default)
    async def wait_closed(self) -> None:
        if self.pump is None:
            await super().wait_closed()
        elif fault := await asyncio.shield(self.pump):
            raise fault

class Tunnel(asyncio.Transport):
    """The transport of the application: capsules (5), on `websocket` in frames (6)."""
    _wrote = _ended = _over = False  # the application wrote; FINAL_DATA is sent; nothing follows
    _final = _confirmed = _answered = False  # the peer's FINAL_DATA; M44: its PONG; ours to it
    _closed = _inside = False  # the application has closed; the next frame continues a message

    def __init__(self, websocket: bool, reader: Reader, outer: tuple[Reader, Writer],
                 *seconds: float) -> None:
        self._websocket, self._reader, (self._in, self._out) = websocket, reader, outer
        self._keep_alive, self._idle, self._linger = seconds
        self._left = 0 if websocket else math.inf  # bytes of the frame
        self._due: dict[int, bytes] = {}  # the newest PONG and Pong frame that are not sent
        self._reading = asyncio.Event()  # set while the application takes data
        lower = ("abort", "get_extra_info", "get_write_buffer_size", "set_write_buffer_limits")
        vars(self).update({name: getattr(self._out.transport, name) for name in lower},
                          pause_reading=self._reading.clear, resume_reading=self._reading.set,
                          is_closing=lambda: self._closed or self._over, can_write_eof=lambda: True)
        self._loop, self._tasks = asyncio.get_running_loop(), list[Any]()  # and timers
        self._spoke = self._heard = self._loop.time()
        self._reading.set()
        reader.set_transport(self)

    async def run(self) -> Any:
        """Reads until the transport ends, and returns what went wrong."""
        self._tasks.append(self._loop.create_task(self._watch()))
        try:
            await self._receive()
        except (EOFError, OSError) as exc:
            self._end(exc.with_traceback(None))  # a reference to this coroutine could end it
        with contextlib.suppress(OSError):
            while await self._in.read(65536):
                pass  # M47: it is not interpreted
            self._out.close()
            await self._out.wait_closed()
        for task in self._tasks:
            task.cancel()
        self._reader.feed_eof()
        return self._reader.exception()

    async def _receive(self) -> None:
        """Reads capsules. The application can hold back their data, but no PING in front of it."""
        first = True
        while True:
            kind, size = await self._integer(first)
            check(size == 1 or kind >= 1 << 4 * size - 2, "a type is not in its shortest form")
            (left, _), data = await self._integer(), kind in (DATA, FINAL_DATA)
            check(kind in OURS or not first and left <= 65536, "an unknown type is first, or long")
            check(data or left == 8 or kind not in OURS, "a PING or PONG does not have 8 bytes")
            check(not data or not self._final, "data came behind FINAL_DATA")
            first, value = False, b""
            while left:
                if data and not self._reading.is_set():
                    await self._reading.wait()
                    self._heard = self._loop.time()  # silence counts only while we read
                piece = await self._some(left)
                left -= len(piece)
                if data and not self.is_closing():  # else the application has given up
                    self._reader.feed_data(piece)
                elif kind in (PING, PONG):
                    value += piece
            if kind == PING:
                self._due[PONG] = value
            elif kind == PONG and value == LAST and self._ended:
                self._confirmed = True
            elif kind == FINAL_DATA:
                self._final = self._reader.clean = True
                self._reader.feed_eof()
            self._answer()

    async def _integer(self, first: bool = False) -> tuple[int, int]:
        value, size = b"", 1
        while len(value) < size:
            value += await self._some(size - len(value))
            size = 1 << (value[0] >> 6)  # M32: a peer that does not frame is noticed at once
            check(not first or b"\xad\x70\xf1".startswith(value[:3]), "it does not send capsules")
        return int.from_bytes(value) & (1 << 8 * size - 2) - 1, size

    async def _some(self, size: int) -> bytes:  # between one byte of capsules and size
        while not self._left:
            await self._frame()
        if not (piece := await self._in.read(int(min(size, self._left)))):
            raise EOFError
        self._left, self._heard = self._left - len(piece), self._loop.time()
        return piece

    async def _frame(self) -> None:  # reads the header of a frame, or a whole control frame
        begin, size = await self._in.readexactly(2)
        opcode, last = begin & 15, begin >= 128
        check(begin & 0x70 == 0 and opcode in (0, 1, 2, 8, 9, 10), "a reserved bit or opcode came")
        check(opcode != 1, "a text message came, not a binary one", close=(1003).to_bytes(2))
        valid = last and size < 126 if opcode > 2 else self._inside == (opcode == 0)
        check(valid and size < 128, "a frame is masked, or a wrong fragment or control frame")
        if size > 125:
            width, shortest = (2, 126) if size == 126 else (8, 65536)
            size = int.from_bytes(await self._in.readexactly(width))
            check(shortest <= size < 1 << 63, "the length of a frame is not in its shortest form")
        if opcode <= 2:
            self._left, self._inside = size, not last
            return
        payload = await self._in.readexactly(size)
        if opcode == WS_PING:
            self._due[WS_PONG] = payload
            self._answer()
        elif opcode == CLOSE:
            code, reason = int.from_bytes(payload[:2]) if payload else 1000, payload[2:]
            valid = code in CODES and reason.decode(errors="ignore").encode() == reason
            check(valid and len(payload) != 1, "a Close has a wrong code, or a reason not in UTF-8")
            self._end(close=payload[:2])
            raise EOFError  # nothing follows a Close

    def _answer(self) -> None:
        """Sends the answers that are due, unless the peer does not read (M39)."""
        if self._due and self._out.transport.get_write_buffer_size() < ROOM:
            self._send(*self._due.items())
            self._answered = self._answered or self._final and PONG in self._due
            self._due.clear()
        if self._closed and self._final and self._confirmed:  # M45: the peer's last PING may follow
            self._tasks.append(self._loop.call_later(0 if self._answered else GRACE, self._end))

    def _send(self, *parts: tuple[int, bytes]) -> None:
        sent = b""
        for opcode, value in parts:
            if opcode in OURS:
                size, form = len(value), 0 if len(value) < 64 else 1 if len(value) < 16384 else 2
                length = (size | form << 8 * 2**form - 2).to_bytes(2**form)
                opcode, value = BINARY, (opcode | 2 << 30).to_bytes(4) + length + value
            if self._websocket:  # each is masked with a new key (M53)
                size, key = len(value), os.urandom(4)
                length = bytes([128 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
                mask = int.from_bytes((key * (size // 4 + 1))[:size])
                masked = (int.from_bytes(value) ^ mask).to_bytes(size)
                value = bytes([128 | opcode]) + length + key + masked
            sent += value
        if not self._over:
            self._out.write(sent)
            self._spoke = self._loop.time()

    def _end(self, fault: Exception | None = None, close: bytes = b"\x03\xe8") -> None:
        """Ends our direction, on `websocket` with a Close, of 1000 by default."""
        if self._over:
            return
        early = not (self._final or self._closed) or self._wrote and not self._confirmed
        if early or isinstance(fault, (ProtocolError, TimeoutError)):
            truncated = Truncated("the tunnel ended early: the peer or a proxy quit")
            self._reader.set_exception(fault if isinstance(fault, OSError) else truncated)
        if self._websocket:
            self._send((CLOSE, getattr(fault, "close", close)))
        self._over = True
        with contextlib.suppress(OSError):  # the peer may have reset the connection
            self._out.write_eof() if self._out.can_write_eof() else self._out.close()
        self._reading.set()
        self._tasks.append(self._loop.call_later(GRACE, self.abort))

    async def _watch(self) -> None:
        """Sends a PING behind own silence, and ends the tunnel behind that of the peer."""
        while (now := self._loop.time()) < self._heard + self._idle:
            if now >= self._spoke + self._keep_alive:
                self._send((PING, LAST if self._ended else FIRST))
            self._answer()
            await asyncio.sleep(min(self._spoke + self._keep_alive, self._heard + self._idle) - now)
            if not self._reading.is_set():
                self._heard = self._loop.time()  # silence counts only while we read
        self._end(TimeoutError(f"nothing came for {self._idle} s: the peer is gone"))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ended:
            raise RuntimeError("write behind write_eof or close: the direction has ended")
        if self._over:  # drain raises it
            self._reader.set_exception(Truncated("the tunnel has ended: it takes no more bytes"))
        self._answer()  # a PONG that waited for room goes first
        view = memoryview(data).cast("B")
        self._wrote = self._wrote or len(view) > 0
        for at in range(0, len(view), 32768):  # M31
            self._send((DATA, bytes(view[at : at + 32768])))
    def write_eof(self) -> None:
        if not self._ended:
            self._send((FINAL_DATA, b""), (PING, LAST))
            self._ended = True
    def close(self) -> None:
        self.write_eof()
        if not self.is_closing():
            self._closed = True
            self._tasks.append(self._loop.call_later(self._linger, self._end))
            self._reading.set()
            self._answer()

async def read_answer(reader: Reader) -> Response:  # behind the interim ones (4)
    room = MAX_HEADS
    for _ in range(9):
        head = b""
        try:
            for expected in b"HTTP/1.":  # one by one: a peer that is not HTTP may send less
                head += await reader.readexactly(1)
                check(head[-1] == expected, "the answer is not HTTP/1: check port and scheme")
            while not head.endswith((b"\n\n", b"\n\r\n")) and len(head) <= room:
                head += await reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            room = 0
        room -= len(head)
        check(room >= 0, f"the head of the answer has no end, or more than {MAX_HEADS} bytes")
        if not (match := re.fullmatch(HEAD, head.decode("latin-1"))):
            raise ProtocolError("the answer has a malformed line or a control character")
        status, lines = int(match[1]), re.sub(r"\r?\n[ \t]+", " ", match[2])
        if status == 101 or status >= 200:
            return Response(status, re.findall(r"(.*?):[ \t]*(.*?)[ \t]*\r?\n", lines))
    raise ProtocolError("more than 8 interim answers came")

async def exchange(reader: Reader, writer: Writer, carriers: Sequence[str], protocol: str,
                   lines: Sequence[str]) -> Response:
    """Asks for the first of carriers. Returns the 101 when it has passed all checks."""
    carrier, websocket = carriers[0], carriers[0] == "websocket"
    key, token = base64.b64encode(os.urandom(16)).decode(), "websocket" if websocket else protocol
    named = [protocol] if websocket and protocol != "tcp" else []
    lines = [*lines, "Connection: Upgrade", f"Upgrade: {token}",
             "Preflight-Carriers: " + ", ".join(carriers)]
    if carrier != "upgrade":
        lines += ["Preflight-Framing: capsule"]
    if websocket:
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: preflight.v1",
                  f"Sec-WebSocket-Key: {key}", *(f"Preflight-Protocol: {name}" for name in named)]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    response = await read_answer(reader)
    if response.status != 101:
        refused = Refused(response)
        if not refused.falls or not carriers[1:]:
            with contextlib.suppress(OSError):
                body = await asyncio.wait_for(reader.read(4096), 1)
                refused.reason = body.decode(errors="replace")
        raise refused
    got, members = response.values, response.members
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    accept = base64.b64encode(digest).decode()
    for on, name, valid in (
        ("", "Upgrade", [m.lower() for m in members("Upgrade")] == [token]),
        ("", "Connection", "upgrade" in [m.lower() for m in members("Connection")]),
        ("", "Preflight-Tunnel", not got("Preflight-Tunnel")),
        ("upgrade", "Preflight-Framing", not got("Preflight-Framing")),
        ("framed", "Preflight-Framing", set(members("Preflight-Framing")) == {"capsule"}),
        ("websocket", "Sec-WebSocket-Accept", got("Sec-WebSocket-Accept") == [accept]),
        ("websocket", "Sec-WebSocket-Protocol", got("Sec-WebSocket-Protocol") == ["preflight.v1"]),
        ("websocket", "Sec-WebSocket-Extensions", got("Sec-WebSocket-Extensions") in ([], [""])),
        ("websocket", "Preflight-Protocol", [*map(str.lower, got("Preflight-Protocol"))] == named),
    ):
        check(valid or on not in ("", carrier), f"the {name} of the 101 is not what we asked for",
              falls=name == "Upgrade" and not got("Preflight-Refusal"))
    return response

async def open_connection(
    url: str, *, headers: Mapping[str, str] | None = None, carriers: Sequence[str] | None = None,
    ssl: tls.SSLContext | None = None, protocol: str = "tcp", limit: int = 65536,
    keep_alive: float | None = 20.0, max_idle: float | None = None, linger: float = 60.0,
    **connect: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Opens a tunnel to an http or https URL. README.md describes the parameters."""
    parts, order = urlsplit(url), list(dict.fromkeys(carriers or ("upgrade", "websocket")))
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = {"": f"GET {target} HTTP/1.1", "host": f"Host: {parts.netloc}"}
    check(re.fullmatch(r"(?i)https?://[!-~]+", url) and parts.hostname and "@" not in parts.netloc,
          "the URL is not http or https, or has a userinfo or a special character", ValueError)
    check(set(order) <= {"upgrade", "framed", "websocket"}, "a carrier is unknown", ValueError)
    check(re.fullmatch(f"(?!websocket$|.*[A-Z]){TOKEN}(/{TOKEN})?", protocol),
          "a protocol is name or name/version in lower case, and not websocket", ValueError)
    for name, value in (headers or {}).items():
        check(re.fullmatch(NAME, name) and re.fullmatch(TEXT, value),
              f"the field {name!r} is malformed, or belongs to the exchange", ValueError)
        lines[name.lower()] = f"{name}: {value}"
    secure, host = parts.scheme == "https", lines["host"][6:]  # perhaps that of headers
    check(secure or not ssl, "ssl needs an https URL", ValueError)
    if secure:
        ssl = ssl or tls.create_default_context()
        ssl.set_alpn_protocols(["http/1.1"])
        connect.setdefault("server_hostname", urlsplit(f"//{host}").hostname)
    address = parts.hostname or "", parts.port or (443 if secure else 80)
    place = (*order, *address, connect.get("server_hostname"), host, parts.path)
    carrier, until = worked.get(place, ("", 0.0))
    if time.monotonic() < until:
        order.sort(key=carrier.__ne__)  # it goes first
    loop = asyncio.get_running_loop()
    for tried in range(len(order)):
        reader = Reader(max(limit, MAX_HEADS), loop)
        lower = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: lower, *address, ssl=ssl, **connect)
        writer = Writer(transport, lower, reader, loop)
        try:
            response = await exchange(reader, writer, order[tried:], protocol, [*lines.values()])
            break
        except BaseException as exc:
            transport.abort()
            if not order[tried + 1:] or not getattr(exc, "falls", False):
                raise
            worked.pop(place, None)  # a refusal ends it (M70)
    if tried:
        if len(worked) >= 1000:  # so that it does not grow with the number of paths
            worked.clear()
        worked[place] = (order[tried], time.monotonic() + MEMORY)
    if order[tried] != "upgrade":
        outer, reader = (reader, writer), Reader(limit, loop)
        tunnel = Tunnel(order[tried] == "websocket", reader, outer,
                        keep_alive or math.inf, max_idle or math.inf, linger)
        writer = Writer(tunnel, lower, reader, loop)
        writer.pump = loop.create_task(tunnel.run())
    writer.info = {"carrier": order[tried], "response": response}
    return reader, writer
