// The path of browsers, with the WebSocket of WHATWG that Node has too, and with one in memory.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RefusalError, connect } from '../preflight.js';
import { DATA, FINAL_DATA, PING, PONG, capsule, serve, switching } from './peer.js';
import { read } from './streams.js';

const text = (string) => new TextEncoder().encode(string);

/** Calls connect as a page would: without `process`, and perhaps with another WebSocket. */
function connectAsPage(url, options, Socket = globalThis.WebSocket) {
  const { process, WebSocket } = globalThis;
  Object.assign(globalThis, { process: undefined, WebSocket: Socket });
  try {
    return connect(url, options);
  } finally {
    Object.assign(globalThis, { process, WebSocket });
  }
}

/** A WebSocket whose network the test plays. */
class FakeSocket {
  static last;
  readyState = 0; bufferedAmount = 0; protocol = 'preflight.v1'; sent = []; closed = [];
  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    FakeSocket.last = this;
  }
  send(bytes) { this.sent.push(bytes); }
  close(code) { this.closed.push(code); }
  open() { this.readyState = 1; this.onopen(); }
  message(...bytes) { this.onmessage({ data: Uint8Array.from(Buffer.concat(bytes)).buffer }); }
}

async function fake(options) {
  const opening = connectAsPage('https://h/p?q', options, FakeSocket);
  FakeSocket.last.open();
  return { socket: FakeSocket.last, ...await opening };
}

test('a page opens a tunnel, ends each direction, and ends it with 1000', async (t) => {
  let codes;
  const { url, requests } = await serve(t, async (peer) => {
    const data = [];
    await peer.until(FINAL_DATA, (value) => data.push(value));
    peer.send(PONG, (await peer.until(PING)).value);
    peer.send(DATA, Buffer.concat([text('got '), ...data]));
    peer.send(FINAL_DATA);
    peer.send(PING, Buffer.alloc(8));
    codes = peer.goodbye();
    await codes;
  });
  const tunnel = await connectAsPage(url, { protocols: ['bearer.abc'] });
  assert.equal(tunnel.carrier, 'websocket');
  const writer = tunnel.writable.getWriter();
  await writer.write(text('hello'));
  await writer.close();
  const got = await read(tunnel.readable.getReader());
  assert.deepEqual([got.bytes.toString(), got.done], ['got hello', true]);
  assert.deepEqual(await tunnel.closed, { confirmed: true });
  assert.deepEqual(await codes, [1000]);
  assert.match(requests[0], /^sec-websocket-protocol: preflight\.v1, ?bearer\.abc\r$/mi);
});

test('a Close of the server in front of its end truncates the stream', async (t) => {
  const { url } = await serve(t, async (peer) => {
    peer.send(DATA, text('hello'));
    peer.close([3, 232]);
    await peer.goodbye();
  });
  const tunnel = await connectAsPage(url);
  await assert.rejects(tunnel.closed, { reason: 'truncated' });
  const got = await read(tunnel.readable.getReader());
  assert.deepEqual([got.bytes.toString(), got.error.reason], ['hello', 'truncated']);
});

test('a refusal does not tell more than a browser knows', async (t) => {
  const { url } = await serve(t, null, (request, socket) => {
    socket.end('HTTP/1.1 403 Forbidden\r\nPreflight-Refusal: origin\r\nContent-Length: 0\r\n\r\n');
  });
  const error = await connectAsPage(`${url}?SECRET`).catch((caught) => caught);
  assert.ok(error instanceof RefusalError);
  assert.deepEqual([error.status, error.code, error.carriers], [undefined, undefined, []]);
  assert.match(error.message, /console/);
  assert.doesNotMatch(error.stack, /SECRET/);
});

test('a server without the subprotocol is not spoken to', async (t) => {
  const { url } = await serve(t, (peer) => peer.next(),
    (request) => switching(request).replace(/Sec-WebSocket-Protocol.*\r\n/, ''));
  await assert.rejects(connectAsPage(url)); // the WebSocket itself may notice it first
  const opening = connectAsPage('wss://h/', {}, FakeSocket);
  FakeSocket.last.protocol = '';
  FakeSocket.last.open();
  await assert.rejects(opening, { reason: 'handshake' });
  assert.deepEqual(FakeSocket.last.closed.length, 1);
});

test('the URL becomes one of ws or wss, and the binary type an ArrayBuffer', async () => {
  const { socket } = await fake({ protocols: ['a'] });
  assert.equal(socket.url, 'wss://h/p?q');
  assert.deepEqual(socket.protocols, ['preflight.v1', 'a']);
  assert.equal(socket.binaryType, 'arraybuffer');
});

test('bufferedAmount holds writes back', async () => {
  const { socket, writable } = await fake();
  socket.bufferedAmount = 1 << 20;
  const writer = writable.getWriter();
  let done = false;
  const writing = writer.write(new Uint8Array(100_000)).then(() => { done = true; });
  await new Promise((resolve) => { setImmediate(resolve); });
  assert.deepEqual([done, socket.sent.length], [false, 1]);
  socket.message(capsule(PING, Buffer.alloc(8, 1)), capsule(PING, Buffer.alloc(8, 2)));
  assert.equal(socket.sent.length, 1, 'a PONG waits as well');
  socket.bufferedAmount = 0;
  await writing;
  const types = socket.sent.map((bytes) => bytes[3]);
  assert.deepEqual([...types].sort(), [DATA, DATA, DATA, DATA, PONG]);
  const pong = socket.sent[types.indexOf(PONG)];
  assert.deepEqual([...pong.subarray(5)], Array(8).fill(2)); // the newest
});

test('a text message and a protocol error close with codes that a page may send', async () => {
  for (const [message, code] of [[() => 'text', 4003], [() => text('HTTP').buffer, 4002]]) {
    const { socket, closed } = await fake();
    socket.onmessage({ data: message() });
    await assert.rejects(closed, { reason: 'malformed', closeCode: code - 3000 });
    assert.deepEqual(socket.closed, [code]);
  }
});

test('a lost connection is a reset', async () => {
  const { socket, closed, readable } = await fake();
  socket.message(capsule(DATA, text('hello')));
  socket.onclose({ code: 1006 });
  await assert.rejects(closed, { reason: 'reset' });
  const got = await read(readable.getReader());
  assert.deepEqual([got.bytes.toString(), got.error.reason], ['hello', 'reset']);
});

test('a signal closes the WebSocket, before and behind its opening', async () => {
  const reason = new Error('stop');
  let stop = new AbortController();
  const opening = connectAsPage('ws://h/', { signal: stop.signal }, FakeSocket);
  stop.abort(reason);
  await assert.rejects(opening, reason);
  assert.equal(FakeSocket.last.closed.length, 1);
  stop = new AbortController();
  const { socket, closed } = await fake({ signal: stop.signal });
  stop.abort(reason);
  await assert.rejects(closed, reason);
  assert.deepEqual(socket.closed, [1000]);
});

test('an error of the constructor does not show the URL', async () => {
  class Refusing { constructor(url) { throw new DOMException(`no ${url}`, 'SecurityError'); } }
  const error = await connectAsPage('ws://h/?SECRET', {}, Refusing).catch((caught) => caught);
  assert.equal(error.reason, 'unreachable');
  assert.doesNotMatch(error.stack, /SECRET/);
});

test('what a browser cannot do is refused', async () => {
  const headers = { Authorization: 'x' };
  for (const options of [{ headers }, { protocol: 'amqp' }, { carriers: ['upgrade'] }]) {
    await assert.rejects(connectAsPage('ws://h/', options, FakeSocket), TypeError);
  }
});

test('only the PONG for the PING behind the end confirms', async () => {
  const { socket, writable, readable, closed } = await fake();
  let settled = false;
  closed.then(() => { settled = true; });
  await writable.close();
  socket.message(capsule(FINAL_DATA), capsule(PONG, Buffer.alloc(8)));
  assert.ok((await read(readable.getReader())).done);
  assert.equal(settled, false);
  socket.message(capsule(PONG, socket.sent.at(-1).subarray(5)));
  assert.deepEqual(await closed, { confirmed: true });
  assert.deepEqual(socket.closed, [], 'the PING of the peer is still to be answered');
  socket.message(capsule(PING, Buffer.alloc(8)));
  assert.deepEqual([socket.sent.at(-1)[3], socket.closed], [PONG, [1000]]);
});

test('the chunks of a stream do not share a buffer', async () => {
  const { socket, readable } = await fake();
  socket.message(capsule(DATA, text('a')), capsule(DATA, text('b')));
  const reader = readable.getReader(), { value } = await reader.read();
  structuredClone(value.buffer, { transfer: [value.buffer] });
  assert.deepEqual((await reader.read()).value, text('b'));
});

test('a write goes on with the next message, for the timers of a hidden page are slow', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] }); // so slow that none of them fires
  const { socket, writable } = await fake();
  socket.bufferedAmount = 1 << 20;
  const writing = writable.getWriter().write(new Uint8Array(100));
  await new Promise((resolve) => { setImmediate(resolve); });
  socket.bufferedAmount = 0;
  socket.message(capsule(PONG, Buffer.alloc(8)));
  await writing;
});

test('the bufferedAmount of a WebSocket that has closed is not watched', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { socket, writable, closed } = await fake();
  let looks = 0;
  Object.defineProperty(socket, 'bufferedAmount', { get: () => ++looks << 20 });
  const writing = writable.getWriter().write(new Uint8Array(100));
  await new Promise((resolve) => { setImmediate(resolve); });
  socket.readyState = 3;
  socket.onclose({ code: 1006 });
  await assert.rejects(closed, { reason: 'reset' });
  await assert.rejects(writing, { reason: 'reset' });
  looks = 0;
  t.mock.timers.tick(5000);
  assert.equal(looks, 0);
});

test('the timers are exact, and one at a time', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  const opening = connectAsPage('ws://h/', {}, FakeSocket);
  t.mock.timers.tick(30_000);
  await assert.rejects(opening, { reason: 'timeout' });
  const { socket, readable, writable, closed } = await fake();
  t.mock.timers.tick(19_999);
  assert.equal(socket.sent.length, 0);
  t.mock.timers.tick(1);
  assert.deepEqual(socket.sent.map((bytes) => bytes[3]), [PING]);
  t.mock.timers.tick(20_000);
  assert.equal(socket.sent.length, 2);
  socket.bufferedAmount = 1 << 20;
  t.mock.timers.tick(20_000);
  assert.equal(socket.sent.length, 2, 'no PING behind bytes that wait');
  socket.bufferedAmount = 0;
  await Promise.all([readable.cancel(), writable.close()]);
  t.mock.timers.tick(59_999);
  assert.deepEqual(socket.sent.slice(2).map((bytes) => bytes[3]), [FINAL_DATA, PING]);
  assert.equal(socket.closed.length, 0);
  t.mock.timers.tick(1);
  await assert.rejects(closed, { reason: 'timeout' });
  assert.equal(socket.closed.length, 1);
  const aborted = await fake();
  await aborted.writable.abort();
  t.mock.timers.tick(20_000);
  assert.equal(aborted.socket.sent.length, 0, 'no PING behind the end');
});
