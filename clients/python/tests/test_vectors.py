"""The vectors of spec/vectors, against open_connection on a transport that is a list."""

import asyncio
import base64
import hashlib
import itertools
import pathlib
import re
import unittest
from unittest import mock

import preflight

from .decoder import Decoder

ROOT = pathlib.Path(__file__).parents[3] / "spec" / "vectors"
SAMPLE = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # the Sec-WebSocket-Accept of the vectors
HEADS = {
    "framed": b"HTTP/1.1 101 x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n"
    b"Preflight-Framing: capsule\r\n\r\n",
    "websocket": b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + SAMPLE + b"\r\nSec-WebSocket-Protocol: preflight.v1\r\n\r\n",
}


class Vector:
    def __init__(self, path):
        head, _, self.bytes = path.read_bytes().partition(b"\n\n")
        keys = (line.partition(":") for line in head.decode().split("\n"))
        self.keys = {name: value.strip() for name, _, value in keys}
        self.data = bytes.fromhex(self.keys.get("data", ""))

    def __getattr__(self, name):
        return self.keys.get(name.replace("_", "-"))

    def cuts(self):
        """The ways in which the bytes must be tried."""
        yield [self.bytes]
        if self.chunks:
            yield [self.bytes[i : i + 1] for i in range(len(self.bytes))]
            for i in range(1, len(self.bytes)):
                yield [self.bytes[:i], self.bytes[i:]]


def vectors(kind):
    return [Vector(path) for path in sorted((ROOT / kind).glob("*.vector"))]


class Socket(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self, protocol):
        super().__init__()
        self.protocol, self.written, self.closing = protocol, b"", False
        protocol.connection_made(self)

    def write(self, data):
        self.written += data

    def can_write_eof(self):
        return True

    def write_eof(self):
        pass

    def is_closing(self):
        return self.closing

    def close(self):
        self.lose(None)

    abort = close

    def lose(self, exc):
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, exc)

    def get_write_buffer_size(self):
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def accept(self):
        key = re.search(rb"Sec-WebSocket-Key: (.*)\r\n", self.written)
        digest = hashlib.sha1((key[1] if key else b"") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        return base64.b64encode(digest.digest())

    async def receive(self, pieces, transport):
        for piece in pieces:
            self.protocol.data_received(piece)
            await asyncio.sleep(0)
        if transport == "end" and not self.protocol.eof_received():
            self.close()
        if transport == "reset":
            self.lose(ConnectionResetError("reset by the test"))


class VectorTest(unittest.IsolatedAsyncioTestCase):
    async def open(self, vector, pieces, carriers, head=b"", protocol="tcp"):
        """Runs open_connection; returns its result or error, and the sockets."""
        sockets = []

        async def connect(factory, *args, **kwargs):
            sockets.append(Socket(factory()))
            return sockets[-1], sockets[-1].protocol

        preflight.worked.clear()
        loop = asyncio.get_running_loop()
        loop.set_debug(False)  # it is slow, and there are many runs
        with mock.patch.object(loop, "create_connection", connect):
            opening = asyncio.ensure_future(
                preflight.open_connection("http://x/", carriers=carriers, protocol=protocol)
            )
            await asyncio.sleep(0)
            request = len(sockets[0].written)
            accept = sockets[0].accept()
            if head:
                sockets[0].protocol.data_received(head.replace(SAMPLE, accept))
                await opening
            self.assertNotEqual(request, 0)
            # The accept of the vector stands for that of our key, which has the same length.
            whole, pieces = iter(b"".join(pieces).replace(SAMPLE, accept)), list(map(len, pieces))
            pieces = [bytes(itertools.islice(whole, size)) for size in pieces]
            await sockets[0].receive(pieces, vector.transport)
            done, _ = await asyncio.wait([opening, asyncio.ensure_future(self.second(sockets))],
                                         return_when=asyncio.FIRST_COMPLETED)
        return opening, sockets, request

    async def second(self, sockets):
        for _ in range(10):
            await asyncio.sleep(0)

    async def stream(self, vector, opening, sockets, request):
        reader, writer = opening.result()
        got, error = b"", None
        if vector.end == "open":
            got = await asyncio.wait_for(reader.readexactly(len(vector.data)), 5)
            more = asyncio.ensure_future(reader.read(1))
            await self.second(sockets)
            self.assertFalse(more.done())
            more.cancel()
        else:
            try:
                while data := await asyncio.wait_for(reader.read(65536), 5):
                    got += data
            except OSError as exc:
                error = exc
        kinds = {"truncated": preflight.Truncated, "malformed": preflight.ProtocolError,
                 "reset": ConnectionResetError}
        self.assertIs(type(error), kinds.get(vector.end, type(None)))
        if vector.end == "malformed":
            self.assertTrue(vector.data.startswith(got))
        else:
            self.assertEqual(got, vector.data)
        await self.second(sockets)
        self.replies(vector, sockets[0].written[request:])
        if vector.after:
            with self.assertRaises(preflight.ProtocolError):
                await writer.drain()
        if vector.close:
            with self.assertRaises(ConnectionError):
                writer.write(b"behind the Close")
                await writer.drain()
        writer.transport.abort()
        if writer.pump:
            await asyncio.wait([writer.pump], timeout=5)

    def replies(self, vector, sent):
        websocket = vector.kind == "websocket" or vector.carrier == "websocket"
        decoder = Decoder(self.fail, websocket)
        decoder.feed(sent)
        self.assertFalse(decoder.final)
        if vector.pong is not None:
            self.assertEqual(decoder.pong.hex(), vector.pong)
        if vector.ws_pong is not None:
            pongs = [payload.hex() for opcode, payload in decoder.controls if opcode == 10]
            self.assertEqual(pongs[-1], vector.ws_pong)
        if vector.close is not None:
            code = b"" if vector.close == "none" else int(vector.close).to_bytes(2)
            self.assertEqual(decoder.closes, [code])

    async def test_response_heads(self):
        tried = 0
        for vector in vectors("response-head"):
            if vector.tls:
                continue  # asks for TLS inside, which this client does not offer
            carriers = vector.carriers.split(", ")
            for pieces in vector.cuts():
                with self.subTest(vector.id, pieces=[len(p) for p in pieces][:2]):
                    tried += 1
                    protocol = vector.protocols or "tcp"
                    result = await self.open(vector, pieces, carriers, b"", protocol)
                    opening, sockets, request = result
                    if vector.expect == "fall":
                        self.assertEqual(len(sockets), 2)
                        self.assertIn(carriers[1].encode(), sockets[1].written)
                        opening.cancel()
                        await asyncio.wait([opening])
                        continue
                    self.assertEqual(len(sockets), 1)
                    if vector.expect == "fail":
                        await asyncio.wait([opening], timeout=5)
                        self.assertIsInstance(opening.exception(), OSError)
                        self.assertEqual(len(sockets), 1)
                        self.assertEqual(len(sockets[0].written), request)
                        self.assertTrue(sockets[0].closing)
                        continue
                    writer = opening.result()[1]
                    self.assertEqual(writer.get_extra_info("carrier"), vector.carrier)
                    self.assertEqual(writer.get_extra_info("response").status, 101)
                    await self.stream(vector, *result)
        self.assertGreater(tried, 10_000)

    async def streams(self, kind, carrier):
        tried = 0
        for vector in vectors(kind):
            if vector.role == "server":
                continue
            for pieces in vector.cuts():
                with self.subTest(vector.id, pieces=[len(p) for p in pieces][:2]):
                    tried += 1
                    result = await self.open(vector, pieces, [carrier], HEADS[carrier])
                    await self.stream(vector, *result)
        self.assertGreater(tried, 1000)

    async def test_capsules(self):
        await self.streams("capsules", "framed")

    async def test_websocket(self):
        await self.streams("websocket", "websocket")


if __name__ == "__main__":
    unittest.main()
