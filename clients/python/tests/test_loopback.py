"""Tests against a small server of the document, on the loopback."""

import asyncio
import base64
import hashlib
import os
import re
import socket
import ssl
import struct
import subprocess
import tempfile
import unittest
from unittest import mock

import preflight
from preflight import DATA, FINAL_DATA, PING, PONG, ProtocolError, Refused, Truncated

from .decoder import Decoder

FRAMED = ("framed", "websocket")


def capsule(kind, value=b""):
    return (kind | 1 << 31).to_bytes(4) + (len(value) | 2 << 30).to_bytes(4) + value


class Peer:
    """The server's side of a connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.got = reader, writer, bytearray()
        self.head = self.carrier = self.decoder = None
        self.pings, self.done = 0, asyncio.Event()

    async def request(self):
        self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        self.carrier = (
            "websocket" if "Upgrade: websocket" in self.head
            else "framed" if "Preflight-Framing" in self.head else "upgrade"
        )

    def field(self, name):
        found = re.findall(rf"(?mi)^{name}: (.*)\r$", self.head)
        return ", ".join(found)

    async def refuse(self, status, *fields, body=b""):
        head = [f"HTTP/1.1 {status} No", *fields, f"Content-Length: {len(body)}", "", ""]
        self.writer.write("\r\n".join(head).encode() + body)
        await self.writer.drain()

    def accept(self):
        lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade"]
        lines.append(f"Upgrade: {self.field('Upgrade')}")
        if self.carrier == "framed":
            lines.append("Preflight-Framing: capsule")
        if self.carrier == "websocket":
            key = self.field("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            digest = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            lines += [f"Sec-WebSocket-Accept: {digest}", "Sec-WebSocket-Protocol: preflight.v1"]
            if self.field("Preflight-Protocol"):
                lines.append(f"Preflight-Protocol: {self.field('Preflight-Protocol')}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        if self.carrier != "upgrade":
            self.decoder = Decoder(self.got.extend, self.carrier == "websocket")

    def raw(self, opcode, payload):
        size = len(payload)
        length = bytes([size]) if size < 126 else (
            b"\x7e" + size.to_bytes(2) if size < 65536 else b"\x7f" + size.to_bytes(8))
        self.writer.write(bytes([0x80 | opcode]) + length + payload)

    def send(self, kind, value=b""):
        if self.carrier == "websocket":
            self.raw(2, capsule(kind, value))
        else:
            self.writer.write(capsule(kind, value))

    def data(self, value):
        self.writer.write(value) if self.carrier == "upgrade" else self.send(DATA, value)

    def finish(self):
        if self.carrier == "upgrade":
            self.writer.write_eof()
        else:
            self.send(FINAL_DATA)
            self.send(PING, b"the last")

    async def more(self):
        """Reads once and answers. Returns whether the transport is still open."""
        data = await self.reader.read(65536)
        if not data or self.decoder is None:
            self.got += data
            return bool(data)
        self.decoder.feed(data)
        if self.decoder.ping:
            self.pings += 1
            self.send(PONG, self.decoder.ping)
            self.decoder.ping = None
        return True

    async def until(self, condition):
        while not condition():
            if not await self.more():
                raise EOFError("the client has ended the transport")

    async def all(self):
        """Reads until the client's direction has ended."""
        if self.decoder is None:
            while await self.more():
                pass
        else:
            await self.until(lambda: self.decoder.final)
        return bytes(self.got)

    def reset(self):
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


class Base(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        asyncio.get_running_loop().set_debug(False)
        preflight.worked.clear()
        self.peers, self.errors = [], []

    async def serve(self, act, accept=True, **tls):
        """Starts a server that runs act for each connection, and returns its URL."""

        async def handle(reader, writer):
            peer = Peer(reader, writer)
            self.peers.append(peer)
            try:
                await peer.request()
                if accept:
                    peer.accept()
                await act(peer)
            except Exception as exc:
                self.errors.append(exc)
            finally:
                peer.done.set()
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0, **tls)
        self.addAsyncCleanup(self.stop, server)
        scheme = "https" if tls else "http"
        return f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/a/b?secret=1"

    async def stop(self, server):
        server.close()
        await server.wait_closed()
        self.assertEqual(self.errors, [])

    async def carriers(self, test, carriers=("upgrade", *FRAMED)):
        for carrier in carriers:
            with self.subTest(carrier):
                async with asyncio.timeout(20):
                    await test(carrier)


class StreamTest(Base):
    async def test_half_close(self):
        async def act(peer):
            peer.data(b"hello ")
            got = await peer.all()
            peer.data(got[::-1])
            peer.finish()
            await peer.all()
            if peer.decoder:
                await peer.until(lambda: peer.decoder.pong == b"the last")

        async def test(carrier):
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            self.assertIsInstance(writer, asyncio.StreamWriter)
            self.assertIsInstance(reader, asyncio.StreamReader)
            self.assertEqual(writer.get_extra_info("carrier"), carrier)
            self.assertEqual(writer.get_extra_info("peername")[0], "127.0.0.1")
            self.assertIsNone(writer.get_extra_info("ssl_object"))
            self.assertTrue(writer.can_write_eof())
            self.assertEqual(await reader.readexactly(6), b"hello ")
            writer.writelines([b"abc", bytearray(b"def"), memoryview(b"ghi")])
            await writer.drain()
            writer.write_eof()
            with self.assertRaises(RuntimeError):
                writer.write(b"x")
            self.assertEqual(await reader.read(), b"ihgfedcba")
            self.assertTrue(reader.at_eof())
            self.assertFalse(writer.is_closing())
            writer.close()
            self.assertTrue(writer.is_closing())
            await writer.wait_closed()

        url = await self.serve(act)
        await self.carriers(test)

    async def test_lines(self):
        async def act(peer):
            peer.data(b"one\ntwo\nthr")
            peer.data(b"ee")
            peer.finish()
            await peer.all()

        async def test(carrier):
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            self.assertEqual([line async for line in reader], [b"one\n", b"two\n", b"three"])
            with self.assertRaises(asyncio.IncompleteReadError):
                await reader.readexactly(1)
            writer.close()
            await writer.wait_closed()

        url = await self.serve(act)
        await self.carriers(test)

    async def test_64_mib(self):
        block = os.urandom(1 << 20)
        digest = hashlib.sha256(block * 64).digest()

        async def act(peer):
            writing = asyncio.ensure_future(self.write_blocks(peer, block))
            seen = hashlib.sha256()
            open_ = True
            while open_ and not (peer.decoder and peer.decoder.final):
                open_ = await peer.more()
                seen.update(peer.got)
                peer.got.clear()
            await writing
            peer.data(seen.digest())
            peer.finish()
            if peer.decoder:
                await peer.until(lambda: peer.decoder.pong == b"the last")

        async def test(carrier):
            reader, writer = await preflight.open_connection(url, carriers=[carrier])

            async def write():
                for _ in range(64):
                    writer.write(block)
                    await writer.drain()
                writer.write_eof()

            writing, seen = asyncio.ensure_future(write()), hashlib.sha256()
            left = len(block) * 64
            while left:
                data = await reader.read(min(left, 1 << 18))
                seen.update(data)
                left -= len(data)
            await writing
            self.assertEqual(seen.digest(), digest)
            self.assertEqual(await reader.read(), digest)
            writer.close()
            await writer.wait_closed()

        url = await self.serve(act)
        await self.carriers(test)

    async def write_blocks(self, peer, block):
        for _ in range(64):
            peer.data(block)
            await peer.writer.drain()

    async def test_back_pressure(self):
        """Neither side takes more than the buffers hold while the other does not read."""
        async def fill(write, drain):
            with self.assertRaises(TimeoutError):
                async with asyncio.timeout(0.3):
                    for _ in range(64):
                        write(bytes(1 << 20))
                        await drain()

        async def act(peer):
            await fill(peer.data, peer.writer.drain)
            full.set()
            await done.wait()
            peer.writer.transport.abort()

        async def test(carrier):
            nonlocal full, done
            full, done = asyncio.Event(), asyncio.Event()
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            await fill(writer.write, writer.drain)
            self.assertLess(writer.transport.get_write_buffer_size(), 4 << 20)
            await full.wait()
            done.set()
            with self.assertRaises(ConnectionError):
                while await reader.read(65536):
                    pass
            writer.close()
            with self.assertRaises(ConnectionError):
                await writer.wait_closed()

        full = done = None
        url = await self.serve(act)
        await self.carriers(test)

    async def test_truncated(self):
        async def act(peer):
            peer.data(b"half\nof")
            if peer.carrier == "websocket":
                await peer.writer.drain()

        async def test(carrier):
            for method in ("read", "readexactly", "readline", "readuntil"):
                reader, writer = await preflight.open_connection(url, carriers=[carrier])
                self.assertEqual(await reader.readline(), b"half\n")
                with self.assertRaises(Truncated):
                    if method == "readexactly":
                        await reader.readexactly(3)
                    else:
                        if method == "read":
                            self.assertEqual(await reader.readexactly(2), b"of")
                        await getattr(reader, method)()
                with self.assertRaises(Truncated):
                    await reader.read()
                writer.write(b"x")
                with self.assertRaises(Truncated):
                    await writer.drain()
                writer.close()
                with self.assertRaises(Truncated):
                    await writer.wait_closed()

        url = await self.serve(act)
        await self.carriers(test, FRAMED)

    async def test_reset(self):
        async def act(peer):
            peer.data(b"x")
            await peer.until(lambda: peer.got == b"y")
            peer.reset()

        async def test(carrier):
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            self.assertEqual(await reader.readexactly(1), b"x")
            writer.write(b"y")
            with self.assertRaises(ConnectionResetError):
                await reader.read()
            writer.close()
            with self.assertRaises(ConnectionResetError):
                await writer.wait_closed()

        url = await self.serve(act)
        await self.carriers(test)

    async def test_protocol_error(self):
        """The Close and the end come at once; what follows is not read."""
        async def act(peer):
            peer.send(DATA, b"ok")
            peer.send(PING, b"short")
            while data := await peer.reader.read(100):
                tails.append(data)

        async def test(carrier):
            tails.clear()
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            with self.assertRaises(ProtocolError):
                while await reader.read(1):
                    pass
            writer.close()
            with self.assertRaises(ProtocolError):
                await writer.wait_closed()
            decoder = Decoder(self.fail, carrier == "websocket")
            decoder.feed(b"".join(tails))
            closes = [(1002).to_bytes(2)] if carrier == "websocket" else []
            self.assertEqual((decoder.closes, decoder.came), (closes, b""))

        tails = []
        url = await self.serve(act)
        await self.carriers(test, FRAMED)

    async def test_linger(self):
        """close waits until the peer has received everything and has ended; a Close comes first."""
        async def act(peer):
            await peer.until(lambda: peer.decoder.final)
            self.assertFalse(closed.done())
            peer.send(DATA, bytes(1 << 20))  # which the client discards
            peer.finish()
            ends = b""
            while data := await peer.reader.read(100):
                peer.decoder.feed(data)
                ends = data
            self.assertEqual(peer.decoder.pong, b"the last")
            if peer.carrier == "websocket":
                self.assertEqual(peer.decoder.closes, [(1000).to_bytes(2)])
            self.assertTrue(ends)

        async def test(carrier):
            nonlocal closed
            closed = asyncio.get_running_loop().create_future()
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            writer.write(b"everything")
            writer.close()
            await writer.wait_closed()
            closed.set_result(None)
            self.assertEqual(await reader.read(), b"")
            self.assertEqual(self.peers[-1].got, b"everything")

        closed = None
        url = await self.serve(act)
        await self.carriers(test, FRAMED)

    async def test_peer_ends_first(self):
        """Behind the peer's end, writes go on and PINGs are answered."""
        async def act(peer):
            peer.data(b"hello")
            peer.finish()
            if peer.decoder:
                await peer.until(lambda: peer.decoder.pong == b"the last")
            self.assertEqual(await peer.all(), bytes(1 << 20))
            if peer.decoder:
                peer.send(PING, b"one more")
                await peer.until(lambda: peer.decoder.pong == b"one more")

        async def test(carrier):
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            self.assertEqual(await reader.read(), b"hello")
            writer.write(bytes(1 << 20))
            await writer.drain()
            writer.write_eof()
            await self.peers[-1].done.wait()
            writer.close()
            await writer.wait_closed()

        url = await self.serve(act)
        await self.carriers(test)

    async def test_last_ping(self):
        """close answers the PING behind FINAL_DATA, also if it comes as the last of all."""
        async def act(peer):
            await peer.until(lambda: peer.decoder.final and peer.pings)  # which confirms
            peer.send(FINAL_DATA)
            await peer.writer.drain()
            await asyncio.sleep(0.05)  # the client could end in this time
            peer.send(PING, b"the last")
            await peer.until(lambda: peer.decoder.pong == b"the last")

        async def test(carrier):
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            writer.write(b"x")
            writer.close()
            await writer.wait_closed()

        url = await self.serve(act)
        await self.carriers(test, FRAMED)

    async def test_no_last_ping(self):
        """close does not wait for it as long as for the rest."""
        async def act(peer):
            await peer.until(lambda: peer.decoder.final and peer.pings)
            peer.send(FINAL_DATA)
            await peer.reader.read()

        async def test(carrier):
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            writer.write(b"x")
            writer.close()
            await writer.wait_closed()

        url = await self.serve(act)
        with mock.patch.object(preflight, "GRACE", 0.05):
            await self.carriers(test, FRAMED)

    async def test_peer_does_not_end(self):
        """Behind our end, the transport is given up after a short time."""
        async def act(peer):
            peer.send(PING, b"short")
            await done.wait()

        async def test(carrier):
            nonlocal done
            done = asyncio.Event()
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            with self.assertRaises(ProtocolError):
                await reader.read()
            writer.close()
            with self.assertRaises(ProtocolError):
                await writer.wait_closed()
            done.set()

        done = None
        url = await self.serve(act)
        with mock.patch.object(preflight, "GRACE", 0.05):
            await self.carriers(test, FRAMED)

    async def test_pings_while_choked(self):
        """PINGs of a peer that does not read do not pile up; the newest is answered later."""
        async def act(peer):
            await choked.wait()
            for i in range(10_000):
                peer.send(PING, i.to_bytes(8))
                await peer.writer.drain()  # the client reads them, though it cannot write
            peer.data(b"x")
            await peer.until(lambda: peer.decoder.pong == (9999).to_bytes(8))
            peer.finish()
            await peer.all()

        async def test(carrier):
            nonlocal choked
            choked = asyncio.Event()
            reader, writer = await preflight.open_connection(url, carriers=[carrier])
            writer.write(bytes(16 << 20))
            self.assertGreater(writer.transport.get_write_buffer_size(), 1 << 20)
            send = writer.transport._send
            with mock.patch.object(writer.transport, "_send", side_effect=send) as sent:
                choked.set()
                self.assertEqual(await reader.readexactly(1), b"x")
            sent.assert_not_called()
            await writer.drain()
            writer.write(b"y")
            self.assertEqual(await reader.read(), b"")
            writer.close()
            await writer.wait_closed()

        choked = None
        url = await self.serve(act)
        await self.carriers(test, FRAMED)

    async def test_linger_limit(self):
        """A peer that does not confirm holds wait_closed for no longer than the limit."""
        async def act(peer):
            while await peer.reader.read(1000):
                pass

        async def test(carrier):
            reader, writer = await preflight.open_connection(url, carriers=[carrier], linger=0.05)
            writer.write(b"everything")
            writer.close()
            with self.assertRaises(Truncated):
                await writer.wait_closed()

        url = await self.serve(act)
        await self.carriers(test, FRAMED)

    async def test_keep_alive(self):
        async def act(peer):
            await peer.until(lambda: peer.pings >= 3)
            peer.finish()
            await peer.all()

        async def test(carrier):
            reader, writer = await preflight.open_connection(
                url, carriers=[carrier], keep_alive=0.02, max_idle=5)
            self.assertEqual(await reader.read(), b"")
            writer.close()
            await writer.wait_closed()

        url = await self.serve(act)
        await self.carriers(test, FRAMED)

    async def test_max_idle(self):
        async def act(peer):
            while await peer.reader.read(1000):  # reads, and never answers
                pass

        async def test(carrier):
            reader, writer = await preflight.open_connection(
                url, carriers=[carrier], keep_alive=0.02, max_idle=0.1)
            with self.assertRaises(TimeoutError):
                await reader.read()
            writer.close()
            with self.assertRaises(TimeoutError):
                await writer.wait_closed()

        url = await self.serve(act)
        await self.carriers(test, FRAMED)


class TLSTest(Base):
    """TLS on the transport. The certificate is for the name in Host."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        cert, key = (os.path.join(folder.name, name) for name in ("cert.pem", "key.pem"))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=edge.example",
             "-addext", "subjectAltName=DNS:edge.example"], check=True, capture_output=True)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(cert, key)
        self.server.set_alpn_protocols(["h2", "http/1.1"])
        self.client = ssl.create_default_context(cafile=cert)

    async def test_half_close(self):
        async def act(peer):
            if peer.carrier == "upgrade":
                peer.data(b"hello")
                return
            got = await peer.all()
            peer.data(got[::-1])
            peer.finish()
            await peer.until(lambda: peer.decoder.pong == b"the last")

        async def test(carrier):
            reader, writer = await preflight.open_connection(
                url, carriers=[carrier], ssl=self.client, headers={"Host": "edge.example:1"})
            tls = writer.get_extra_info("ssl_object")
            self.assertEqual(tls.server_hostname, "edge.example")
            self.assertEqual(tls.selected_alpn_protocol(), "http/1.1")
            self.assertEqual(writer.can_write_eof(), carrier != "upgrade")
            if carrier == "upgrade":
                self.assertEqual(await reader.read(), b"hello")
            else:
                writer.write(bytes(range(256)) * 1000)
                writer.write_eof()
                self.assertEqual(await reader.read(), (bytes(range(256)) * 1000)[::-1])
            writer.close()
            await writer.wait_closed()

        url = await self.serve(act, ssl=self.server)
        await self.carriers(test)

    async def test_truncated(self):
        async def act(peer):
            peer.data(b"half")

        async def test(carrier):
            reader, writer = await preflight.open_connection(
                url, carriers=[carrier], ssl=self.client, headers={"Host": "edge.example"})
            self.assertEqual(await reader.readexactly(4), b"half")
            with self.assertRaises(Truncated):
                await reader.read()
            writer.close()
            with self.assertRaises(Truncated):
                await writer.wait_closed()

        url = await self.serve(act, ssl=self.server)
        await self.carriers(test, FRAMED)

    async def test_another_name(self):
        url = await self.serve(self.fail, ssl=self.server)
        with self.assertRaises(ssl.SSLCertVerificationError):
            await preflight.open_connection(url, ssl=self.client)


class OpenTest(Base):
    async def test_request(self):
        async def act(peer):
            peer.finish()
            await peer.all()

        url = await self.serve(act)
        headers = {"Authorization": "Bearer x", "host": "edge.example"}
        for carrier, protocol in (("upgrade", "tcps"), ("framed", "tcp"), ("websocket", "tcps")):
            reader, writer = await preflight.open_connection(
                url, carriers=[carrier, "upgrade"], protocol=protocol, headers=headers)
            self.assertEqual(await reader.read(), b"")
            writer.close()
            await writer.wait_closed()
            preflight.worked.clear()
        upgrade, framed, websocket = self.peers
        self.assertTrue(upgrade.head.startswith("GET /a/b?secret=1 HTTP/1.1\r\n"))
        for name, value in {"Host": "edge.example", "Connection": "Upgrade", "Upgrade": "tcps",
                            "Preflight-Carriers": "upgrade", "Preflight-Protocol": "",
                            "Authorization": "Bearer x",
                            "Preflight-Framing": "", "Origin": ""}.items():
            self.assertEqual(upgrade.field(name), value)
        self.assertEqual(framed.field("Preflight-Framing"), "capsule")
        self.assertEqual(framed.field("Preflight-Carriers"), "framed, upgrade")
        self.assertEqual(websocket.field("Preflight-Protocol"), "tcps")
        self.assertEqual(websocket.field("Sec-WebSocket-Version"), "13")
        self.assertEqual(len(base64.b64decode(websocket.field("Sec-WebSocket-Key"))), 16)

    async def test_refusal(self):
        async def act(peer):
            fields = ["Preflight-Refusal: authorize", "Preflight-Carriers: upgrade, framed"]
            await peer.refuse(403, *fields, body=b"no \x1b[2Jway" + bytes(10_000))

        url = await self.serve(act, accept=False)
        with self.assertRaises(Refused) as caught:
            await preflight.open_connection(url, headers={"Authorization": "Bearer hidden"})
        refused = caught.exception
        self.assertEqual((refused.status, refused.code), (403, "authorize"))
        self.assertEqual(refused.carriers, ["upgrade", "framed"])
        self.assertTrue(refused.reason.startswith("no \x1b[2Jway"))
        self.assertEqual(len(refused.reason), 4096)
        for secret in ("way", "secret", "hidden"):
            self.assertNotIn(secret, str(refused))
        self.assertEqual(len(self.peers), 1)

    async def test_refusal_on_an_open_connection(self):
        async def act(peer):
            # As a proxy that keeps the connection: the client does not wait for its end.
            peer.writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
            await peer.all()

        url = await self.serve(act, accept=False)
        with self.assertRaises(Refused) as caught:
            await preflight.open_connection(url, carriers=["upgrade"])
        self.assertEqual(caught.exception.reason, "no")
        self.assertEqual(caught.exception.response.values("content-length"), ["2"])

    async def test_byte_85_is_no_line_end(self):
        """Unicode's next line is a byte of a value, not the end of its line."""
        async def act(peer):
            lines = b"HTTP/1.1 101 x", b"X: a\x85Upgrade: tcp", b"Connection: Upgrade", b"", b""
            peer.writer.write(b"\r\n".join(lines))
            await peer.all()

        url = await self.serve(act, accept=False)
        with self.assertRaises(ProtocolError):
            await preflight.open_connection(url, carriers=["upgrade"])

    async def test_fall_and_memory(self):
        async def act(peer):
            if peer.carrier != "websocket":
                await peer.refuse(403)
                return
            peer.accept()
            peer.finish()
            await peer.all()

        async def open_one(carriers=None):
            reader, writer = await preflight.open_connection(url, carriers=carriers)
            self.assertEqual(await reader.read(), b"")
            writer.close()
            await writer.wait_closed()

        url = await self.serve(act, accept=False)
        await open_one(["upgrade", "framed", "websocket"])
        tried = [peer.field("Preflight-Carriers") for peer in self.peers]
        self.assertEqual(tried, ["upgrade, framed, websocket", "framed, websocket", "websocket"])
        await open_one(["upgrade", "framed", "websocket"])
        asked = self.peers[-1].field("Preflight-Carriers")
        self.assertEqual(asked, "websocket, upgrade, framed")
        self.assertEqual(len(self.peers), 4)
        later = preflight.time.monotonic() + 901
        with mock.patch.object(preflight.time, "monotonic", lambda: later):
            await open_one()
        self.assertEqual([peer.carrier for peer in self.peers[4:]], ["upgrade", "websocket"])

    async def test_refusal_ends_memory(self):
        """The remembered carrier is refused, and then the connection of the next one fails."""
        refuses = {"upgrade"}

        async def act(peer):
            if peer.carrier in refuses:
                await peer.refuse(403)
            elif "websocket" in refuses:
                await peer.refuse(503)  # no reason to try another carrier
            else:
                peer.accept()
                peer.finish()
                await peer.all()

        url = await self.serve(act, accept=False)
        _, writer = await preflight.open_connection(url)
        writer.close()
        await writer.wait_closed()
        refuses.clear()
        refuses.add("websocket")
        for _ in range(2):
            with self.assertRaises(Refused):
                await preflight.open_connection(url, carriers=["upgrade", "websocket"])
            refuses = {"upgrade", "websocket"}
        asked = [peer.carrier for peer in self.peers[2:]]
        self.assertEqual(asked, ["websocket", "upgrade", "upgrade", "websocket"])

    async def test_small_limit(self):
        """The limit is that of the application's lines, and not of the answer's."""
        async def act(peer):
            peer.writer.write(b"HTTP/1.1 103 x\r\nX: " + b"x" * 9000 + b"\r\n\r\n")
            peer.accept()
            peer.data(b"x" * 100 + b"\n")
            await peer.reader.read()

        url = await self.serve(act, accept=False)
        reader, writer = await preflight.open_connection(url, carriers=["framed"], limit=64)
        with self.assertRaises(ValueError):
            await reader.readline()
        writer.transport.abort()

    async def test_no_fall(self):
        for status, fields, code in ((503, [], None), (403, ["Preflight-Refusal:"], ""),
                                     (404, ["Preflight-Refusal: \x9b2J"], "\x9b2J")):
            async def act(peer):
                head = [f"HTTP/1.1 {status} No", *fields, "", ""]
                peer.writer.write("\r\n".join(head).encode("latin-1"))

            with self.subTest(status):
                self.peers.clear()
                url = await self.serve(act, accept=False)
                with self.assertRaises(Refused) as caught:
                    await preflight.open_connection(url)
                self.assertEqual(caught.exception.code, code)
                self.assertTrue(str(caught.exception).isascii())
                self.assertEqual(len(self.peers), 1)

    async def test_bounds_of_the_answer(self):
        """These fail while the connection is open, with one request."""
        early = b"HTTP/1.1 103 x\r\n"
        for answer in (b"SSH-2.0-x\r\n", early * 9, early + b"X: " + bytes([120]) * 65536,
                       (early + b"X: " + b"x" * 9000 + b"\r\n\r\n") * 8):
            async def act(peer):
                peer.writer.write(answer.replace(early * 9, (early + b"\r\n") * 9))
                await peer.reader.read()

            with self.subTest(answer[:40]):
                url = await self.serve(act, accept=False)
                async with asyncio.timeout(5):
                    with self.assertRaises(ProtocolError):
                        await preflight.open_connection(url)
        self.assertEqual(len(self.peers), 4)

    async def test_cancel(self):
        """A cancelled open_connection leaves no connection behind."""
        asked, ended = asyncio.Event(), asyncio.Event()

        async def act(peer):
            asked.set()
            self.assertEqual(await peer.reader.read(), b"")
            ended.set()

        url = await self.serve(act, accept=False)
        opening = asyncio.ensure_future(preflight.open_connection(url))
        await asked.wait()
        opening.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await opening
        async with asyncio.timeout(5):
            await ended.wait()

    async def test_arguments(self):
        urls = ("ftp://x/", "http:///x", "http://u:secret@x/", "http://x/ä", "http://x/\r\nX:")
        for url in urls:
            with self.assertRaises(ValueError) as caught:
                await preflight.open_connection(url)
            self.assertNotIn("secret", str(caught.exception))
        for name in ("Upgrade", "preflight-x", "Sec-WebSocket-Key", "Expect", "a b", ""):
            with self.assertRaises(ValueError):
                await preflight.open_connection("http://x/", headers={name: "x"})
        with self.assertRaises(ValueError) as caught:
            await preflight.open_connection("http://x/", headers={"X": "secret\r\nY: z"})
        self.assertNotIn("secret", str(caught.exception))
        for more in ({"protocol": "TCP"}, {"protocol": "websocket"}, {"carriers": ["h2"]}):
            with self.assertRaises(ValueError):
                await preflight.open_connection("http://x/", **more)


if __name__ == "__main__":
    unittest.main()
