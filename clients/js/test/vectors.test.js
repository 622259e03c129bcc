// The vectors at connect(), in each chunking, over a socket in memory.
import assert from 'node:assert/strict';
import net from 'node:net';
import { Duplex } from 'node:stream';
import { test } from 'node:test';
import { connect } from '../preflight.js';
import { DATA, FINAL_DATA, PONG, Peer, accept, capsule, switching } from './peer.js';
import { read } from './streams.js';
import { chunkings, vectors } from './vectors.js';

const ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo='; // of the key in the vectors
const turn = () => new Promise((resolve) => { setImmediate(resolve); });
let sockets; // of the connect() that runs

/** A socket that records what is written; the test pushes what comes. Only the first one connects. */
class Socket extends Duplex {
  written = [];
  constructor() {
    super({ allowHalfOpen: true, writableHighWaterMark: 2 ** 30 });
    if (sockets.push(this) === 1) queueMicrotask(() => this.emit('connect'));
    else this.destroy(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }));
  }
  _read() {}
  _write(bytes, _, done) {
    this.written.push(bytes);
    if (!this.stuck) done();
  }
  resetAndDestroy() { this.destroy(); }
}
net.connect = () => new Socket();

/** Begins a connect(); gives its promise, and the socket with the request. */
async function begin(options) {
  sockets = [];
  const opening = connect('ws://h/', options);
  opening.catch(() => {});
  while (!sockets[0]?.written.length) await turn();
  const [socket] = sockets, request = socket.written.shift().toString('latin1');
  return { opening, socket, request };
}

async function open(carrier) {
  const stop = new AbortController();
  const { opening, socket, request } = await begin({ carriers: [carrier], signal: stop.signal });
  socket.push(switching(request));
  const over = () => {
    stop.abort(new Error('the test is over'));
    socket.destroy();
  };
  return { tunnel: await opening, socket, over };
}

function arrive(socket, vector, chunks) {
  for (const chunk of chunks) socket.push(chunk);
  if (vector.transport === 'end') socket.push(null);
  if (vector.transport === 'reset') {
    socket.once('data', () => {});
    setImmediate(() => socket.destroy(Object.assign(new Error('reset'), { code: 'ECONNRESET' })));
  }
}

/** What the client has sent, as the peer reads it. */
async function sent(socket, websocket) {
  const wire = new Duplex({ read() {}, write() {} });
  const request = websocket ? 'Upgrade: websocket\r\n' : '';
  const peer = new Peer(wire, request, Buffer.concat(socket.written));
  wire.push(null);
  const items = [];
  for (let item; (item = await peer.next());) items.push(item);
  return items;
}

async function receive(vector, chunks) {
  const websocket = vector.kind === 'websocket';
  const { tunnel, socket, over } = await open(websocket ? 'websocket' : 'framed');
  const reader = tunnel.readable.getReader(), writer = tunnel.writable.getWriter();
  writer.closed.catch(() => {});
  arrive(socket, vector, chunks);
  const data = Buffer.from(vector.data ?? '', 'hex');
  if (vector.end === 'open') {
    const got = await read(reader, data.length);
    assert.deepEqual([got.bytes, got.error], [data, undefined]);
    let more = false;
    reader.read().then(() => { more = true; }, () => { more = true; });
    await turn();
    assert.equal(more, false, 'the stream has ended');
  } else {
    const got = await read(reader);
    assert.equal(got.error?.reason, vector.end === 'clean' ? undefined : vector.end);
    if (vector.end === 'malformed') assert.deepEqual(got.bytes, data.subarray(0, got.bytes.length));
    else assert.deepEqual(got.bytes, data);
  }
  if (vector.after) {
    await assert.rejects(tunnel.closed, { reason: vector.after });
    await assert.rejects(writer.write(Uint8Array.of(1)), { reason: vector.after });
  }
  await turn();
  const items = await sent(socket, websocket);
  const closes = items.filter((item) => item.opcode === 8);
  const hex = (list) => list.map((bytes) => bytes.toString('hex'));
  if (vector.pong) {
    const pongs = hex(items.filter((item) => item.type === PONG).map((item) => item.value));
    assert.ok(pongs.includes(vector.pong));
  }
  if (vector['ws-pong'] !== undefined) {
    const pongs = hex(items.filter((item) => item.opcode === 10).map((item) => item.payload));
    assert.ok(pongs.includes(vector['ws-pong']));
  }
  if (vector.close) {
    const code = vector.close === 'none' ? [] : [vector.close >> 8, vector.close & 255];
    assert.deepEqual(closes.map((item) => [...item.payload]), [code]);
    assert.equal(items.at(-1), closes[0], 'nothing follows a Close');
  }
  assert.ok(!items.some((item) => item.type === FINAL_DATA || item.type === DATA));
  over();
}

for (const [folder, count] of [['capsules', 97], ['websocket', 112]]) {
  const mine = vectors(folder).filter(({ role }) => role !== 'server');
  test(`${folder}: there are ${count} vectors`, () => assert.equal(mine.length, count));
  for (const vector of mine) {
    test(vector.id, async () => {
      for (const chunks of chunkings(vector)) await receive(vector, chunks);
    });
  }
}

// TLS inside is not a part of this client, so what answers a request for it is left out.
const answers = vectors('response-head').filter(({ tls }) => !tls);
test('response-head: there are 170 vectors', () => assert.equal(answers.length, 170));

async function judged(vector, chunks) {
  const carriers = vector.carriers.split(', '), protocol = vector.protocols ?? 'tcp';
  const { opening, socket, request } = await begin({ carriers, protocol });
  const key = /^Sec-WebSocket-Key: (.*)\r$/m.exec(request)?.[1];
  const given = Buffer.concat(chunks).toString('latin1');
  const whole = Buffer.from(key ? given.replace(ACCEPT, accept(key)) : given, 'latin1');
  let at = 0;
  const cut = chunks.map(({ length }) => whole.subarray(at, at += length));
  arrive(socket, vector, cut);
  let tunnel;
  try {
    tunnel = await opening;
  } catch (error) {
    const fell = sockets.length > 1, reasons = fell ? ['unreachable'] : ['refused', 'handshake'];
    assert.ok(reasons.includes(error.reason), error.reason);
    assert.equal(socket.written.length, 0, 'a client that fails has sent nothing more');
    assert.equal(socket.destroyed, true);
    return fell ? 'fall' : 'fail';
  }
  const data = Buffer.from(vector.data, 'hex');
  const got = await read(tunnel.readable.getReader(), vector.end === 'open' ? data.length : Infinity);
  assert.deepEqual([got.bytes, got.error], [data, undefined]);
  tunnel.writable.abort();
  return 'accept';
}

for (const vector of answers) {
  test(vector.id, async () => {
    for (const chunks of chunkings(vector)) assert.equal(await judged(vector, chunks), vector.expect);
  });
}

test('reading pauses while nobody reads, but not behind the end or a cancellation', async () => {
  for (const goOn of ['final', 'cancel']) {
    const { tunnel, socket, over } = await open('framed');
    const block = capsule(DATA, Buffer.alloc(32_768));
    if (goOn === 'final') socket.push(Buffer.concat([block, block, capsule(FINAL_DATA)]));
    else {
      socket.push(Buffer.concat([block, block]));
      await turn();
      assert.equal(socket.isPaused(), true);
      await tunnel.readable.cancel();
    }
    await turn();
    assert.equal(socket.isPaused(), false);
    tunnel.closed.catch(() => {});
    over();
  }
});

test('behind a protocol error the client ends its direction, and reads until the peer ends', async () => {
  for (const carrier of ['framed', 'websocket']) {
    const { socket, tunnel, over } = await open(carrier);
    socket.push(Buffer.from('HTTP'));
    await assert.rejects(tunnel.closed, { reason: 'malformed' });
    await turn();
    assert.deepEqual([socket.writableEnded, socket.destroyed, socket.isPaused()], [true, false, false]); // M47
    socket.push(Buffer.alloc(1 << 20));
    await turn();
    assert.equal(socket.readableLength, 0); // it is read all the same
    over();
  }
});

test('an abort drops what nobody has read, and reads until the peer ends', async () => {
  const { socket, tunnel } = await open('framed');
  socket.push(Buffer.concat([capsule(DATA, Buffer.alloc(32_768)), capsule(DATA, Buffer.alloc(32_768))]));
  await turn();
  assert.equal(socket.isPaused(), true);
  tunnel.closed.catch(() => {});
  const reason = new Error('enough');
  await tunnel.writable.abort(reason);
  await assert.rejects(tunnel.readable.getReader().read(), reason);
  assert.deepEqual([socket.writableEnded, socket.destroyed, socket.isPaused()], [true, false, false]);
  socket.destroy();
});

test('parts of one byte count with the memory that they need', async () => {
  const { socket, tunnel, over } = await open('framed');
  let count = 0;
  for (; !socket.isPaused() && count < 1000; count++) {
    socket.push(capsule(DATA, [1]));
    await turn();
  }
  assert.ok(count < 1000, 'each part is an object in memory');
  tunnel.closed.catch(() => {});
  over();
});

test('an abort ends a close that the network does not take', async () => {
  const { socket, tunnel, over } = await open('upgrade');
  socket.stuck = true;
  const writer = tunnel.writable.getWriter();
  await writer.write(Uint8Array.of(1));
  const closing = writer.close();
  await turn();
  over();
  await assert.rejects(closing, /the test is over/);
  await assert.rejects(tunnel.closed, /the test is over/);
});

test('a buffer can be used again when its write resolves', async () => {
  for (const carrier of ['upgrade', 'framed']) {
    const { socket, tunnel, over } = await open(carrier);
    socket.stuck = true; // the network takes the bytes later
    const bytes = Uint8Array.of(1, 2, 3);
    await tunnel.writable.getWriter().write(bytes);
    bytes.fill(0);
    assert.deepEqual([...socket.written[0].subarray(-3)], [1, 2, 3]);
    tunnel.closed.catch(() => {});
    over();
  }
});

test('upgrade: no PING stands between the bytes', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  const { socket, tunnel, over } = await open('upgrade');
  t.mock.timers.tick(60_000);
  assert.equal(socket.written.length, 0);
  tunnel.closed.catch(() => {});
  over();
});

test('a peer that does not end behind its error is left after 2 s', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  const { socket, tunnel } = await open('framed');
  socket.push('HTTP');
  await assert.rejects(tunnel.closed, { reason: 'malformed' });
  t.mock.timers.tick(1_999);
  assert.equal(socket.destroyed, false);
  t.mock.timers.tick(1);
  assert.equal(socket.destroyed, true);
});
