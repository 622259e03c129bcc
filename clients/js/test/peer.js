// A small server of the document. What it sends is written by hand; what it receives is checked
// by a reader of its own, so that an error of the client is not repeated here.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';

export const DATA = 0, FINAL_DATA = 1, PING = 4, PONG = 5;

export function capsule(type, value = []) {
  const n = value.length;
  const length = n < 64 ? [n] : n < 16_384 ? [0x40 | n >> 8, n & 255] : [0x80, 0, n >> 8, n & 255];
  return Buffer.concat([Buffer.from([0xad, 0x70, 0xf1, type, ...length]), Buffer.from(value)]);
}

export function frame(opcode, payload = []) {
  const n = payload.length;
  const head = n < 126 ? [128 | opcode, n] : [128 | opcode, 126, n >> 8, n & 255];
  return Buffer.concat([Buffer.from(head), Buffer.from(payload)]);
}

/** Cuts one capsule off the front; checks that it is in the shortest form (M31). */
function cutCapsule(bytes) {
  if (bytes.length < 5) return null;
  assert.deepEqual([...bytes.subarray(0, 3)], [0xad, 0x70, 0xf1]);
  const size = 1 << (bytes[4] >> 6);
  if (bytes.length < 4 + size) return null;
  const masked = Buffer.from(bytes.subarray(4, 4 + size));
  masked[0] &= 63;
  const length = masked.readUIntBE(0, size);
  assert.equal(size, length < 64 ? 1 : length < 16_384 ? 2 : 4, 'the shortest form of a length');
  assert.ok(length <= 32_768, 'a capsule is too long');
  const end = 4 + size + length;
  if (bytes.length < end) return null;
  return { type: bytes[3], value: bytes.subarray(4 + size, end), rest: bytes.subarray(end) };
}

/** Cuts one frame of a client off the front; checks what M53 asks. */
function cutFrame(bytes, masks) {
  if (bytes.length < 2) return null;
  assert.equal(bytes[0] & 0xf0, 0x80, 'one frame is one message');
  assert.ok(bytes[1] & 128, 'a client masks');
  const form = bytes[1] & 127;
  assert.notEqual(form, 127, 'no frame is so long');
  const at = form === 126 ? 4 : 2;
  if (bytes.length < at + 4) return null;
  const length = form === 126 ? bytes.readUInt16BE(2) : form;
  assert.ok(form !== 126 || length > 125, 'the shortest form of a length');
  const mask = bytes.subarray(at, at + 4), end = at + 4 + length;
  if (bytes.length < end) return null;
  masks.push(mask.readUInt32BE());
  const payload = Buffer.from(bytes.subarray(at + 4, end));
  for (let i = 0; i < length; i++) payload[i] ^= mask[i & 3];
  return { opcode: bytes[0] & 15, payload, rest: bytes.subarray(end) };
}

/** One connection behind its 101. */
export class Peer {
  masks = [];
  #bytes = Buffer.alloc(0);
  #chunks; #closed = false;

  constructor(socket, request, rest) {
    Object.assign(this, { socket, request });
    this.websocket = /^upgrade: websocket\r$/mi.test(request);
    this.#bytes = rest;
    socket.on('error', () => {}); // the client may abort
    this.#chunks = socket.iterator({ destroyOnReturn: false });
  }

  send(type, value) { return this.raw(capsule(type, value)); }
  raw(bytes) { return this.socket.write(this.websocket ? frame(2, bytes) : bytes); }
  close(body) {
    if (!this.#closed) this.socket.write(frame(8, body));
    this.#closed = true;
  }
  async #more() {
    const { value, done } = await this.#chunks.next();
    if (!done) this.#bytes = Buffer.concat([this.#bytes, value]);
    return !done;
  }
  /** The bytes of the next read, on the plain upgrade; null at the end. */
  async bytes() {
    if (!this.#bytes.length && !await this.#more()) return null;
    const bytes = this.#bytes;
    this.#bytes = Buffer.alloc(0);
    return bytes;
  }
  /** The next capsule { type, value } or control frame { opcode, payload }; null at the end. */
  async next() {
    for (;;) {
      const cut = this.websocket ? cutFrame(this.#bytes, this.masks) : cutCapsule(this.#bytes);
      if (cut) {
        this.#bytes = cut.rest;
        if (cut.opcode !== 2) return cut;
        const inner = cutCapsule(cut.payload);
        assert.equal(inner?.rest.length, 0, 'one message holds one capsule');
        return inner;
      }
      if (!await this.#more()) {
        assert.equal(this.#bytes.length, 0, 'the client has ended inside a capsule or frame');
        return null;
      }
    }
  }
  /** Reads up to a capsule of this type; hands DATA on the way to `data`. */
  async until(type, data = () => {}) {
    for (let item; (item = await this.next());) {
      if (item.type === DATA) data(item.value);
      if (item.type === type) return item;
    }
    throw new Error(`the client ended before it sent the capsule ${type}`);
  }
  /** Behind both ends: answers PINGs until the client ends; gives the codes of its Close frames. */
  async goodbye() {
    const codes = [];
    for (let item; (item = await this.next());) {
      if (item.type === PING) this.send(PONG, item.value);
      if (item.opcode !== 8) continue;
      codes.push(item.payload.length ? item.payload.readUInt16BE() : 'none');
      this.close(item.payload);
      this.socket.end(); // a browser waits for it
    }
    this.socket.end();
    return codes;
  }
}

export function switching(request) {
  const key = /^sec-websocket-key: (.*)\r$/mi.exec(request)?.[1];
  const field = (name) => new RegExp(`^${name}: (.*)\r$`, 'mi').exec(request)?.[1];
  const lines = ['HTTP/1.1 101 Switching Protocols', 'Connection: Upgrade'];
  lines.push(`Upgrade: ${field('upgrade')}`);
  if (key) {
    lines.push(`Sec-WebSocket-Accept: ${accept(key)}`, 'Sec-WebSocket-Protocol: preflight.v1');
  } else if (field('preflight-framing')) lines.push('Preflight-Framing: capsule');
  return `${lines.join('\r\n')}\r\n\r\n`;
}

export function accept(key) {
  return createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
}

/** A server on the loopback. `answer(request, socket)` gives the head, or answers by itself. */
export async function serve(t, handle, answer = switching, create = net.createServer) {
  const requests = [], sockets = new Set(), failures = [];
  const server = create({ allowHalfOpen: true }, async (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    let head = Buffer.alloc(0);
    const end = () => head.indexOf('\r\n\r\n');
    while (end() < 0) {
      const [chunk] = await once(socket, 'data', { signal: t.signal });
      head = Buffer.concat([head, chunk]);
    }
    socket.pause();
    const request = head.subarray(0, end() + 4).toString('latin1');
    requests.push(request);
    const given = answer(request, socket);
    if (!given) return;
    socket.write(given);
    try {
      await handle?.(new Peer(socket, request, head.subarray(end() + 4)));
    } catch (error) {
      failures.push(error);
      socket.destroy();
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
    assert.deepEqual(failures, [], 'the peer has failed');
  });
  return { url: `ws://127.0.0.1:${server.address().port}/path`, requests, sockets };
}
