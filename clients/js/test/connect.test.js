// connect() against the peer on the loopback: what bytes alone cannot show.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { getEventListeners, once } from 'node:events';
import { test } from 'node:test';
import tls from 'node:tls';
import { PreflightError, RefusalError, connect } from '../preflight.js';
import { DATA, FINAL_DATA, PING, PONG, accept, serve, switching } from './peer.js';
import { read } from './streams.js';
import { vectors } from './vectors.js';

const ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo='; // of the key in the vectors
const text = (string) => new TextEncoder().encode(string);
const framing = ['framed', 'websocket'], all = ['upgrade', ...framing];
const each = (carriers, name, run) => {
  for (const carrier of carriers) test(`${carrier}: ${name}`, (t) => run(t, carrier));
};
const deferred = () => {
  let resolve;
  const promise = new Promise((done) => { resolve = done; });
  return { promise, resolve };
};

each(framing, 'the end of one direction leaves the other open', async (t, carrier) => {
  const codes = deferred();
  const { url } = await serve(t, async (peer) => {
    const data = [];
    await peer.until(FINAL_DATA, (value) => data.push(value));
    const { value } = await peer.until(PING); // M44
    peer.send(DATA, Buffer.concat([text('got '), ...data]));
    peer.send(PONG, value);
    peer.send(FINAL_DATA);
    peer.send(PING, Buffer.alloc(8, 7));
    assert.deepEqual((await peer.until(PONG)).value, Buffer.alloc(8, 7)); // M43
    codes.resolve(await peer.goodbye());
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  assert.equal(tunnel.carrier, carrier);
  const writer = tunnel.writable.getWriter(), reader = tunnel.readable.getReader();
  await writer.write(text('hello'));
  await writer.close();
  const got = await read(reader);
  assert.deepEqual([got.bytes.toString(), got.done], ['got hello', true]);
  assert.deepEqual(await tunnel.closed, { confirmed: true });
  assert.deepEqual(await codes.promise, carrier === 'websocket' ? [1000] : []); // M65
});

each(framing, 'the peer ends first, and the client goes on writing', async (t, carrier) => {
  const { url } = await serve(t, async (peer) => {
    peer.send(FINAL_DATA, text('bye'));
    peer.send(PING, Buffer.alloc(8));
    await peer.until(PONG);
    const data = [];
    await peer.until(FINAL_DATA, (value) => data.push(value));
    assert.equal(Buffer.concat(data).toString(), 'still here');
    await peer.goodbye();
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  const got = await read(tunnel.readable.getReader());
  assert.deepEqual([got.bytes.toString(), got.done], ['bye', true]);
  const writer = tunnel.writable.getWriter();
  await writer.write(text('still here'));
  await writer.close();
  assert.deepEqual(await tunnel.closed, { confirmed: true });
});

test('upgrade: both directions end by themselves', async (t) => {
  const { url, requests } = await serve(t, async (peer) => {
    const parts = [];
    for (let part; (part = await peer.bytes());) parts.push(part);
    peer.socket.end(Buffer.concat([text('got '), ...parts]));
  });
  const tunnel = await connect(`${url}?a=b`, { headers: { Authorization: 'x' } });
  assert.equal(tunnel.carrier, 'upgrade');
  const writer = tunnel.writable.getWriter();
  await writer.write(text('hello'));
  await writer.close();
  const got = await read(tunnel.readable.getReader());
  assert.deepEqual([got.bytes.toString(), got.done], ['got hello', true]);
  assert.deepEqual(await tunnel.closed, { confirmed: false });
  const { host } = new URL(url);
  assert.equal(requests[0], [
    'GET /path?a=b HTTP/1.1', `Host: ${host}`, 'Connection: Upgrade', 'Upgrade: tcp',
    'Preflight-Carriers: upgrade, websocket', 'Authorization: x', '', '',
  ].join('\r\n'));
});

each(all, '64 MiB come back as they were sent', async (t, carrier) => {
  const block = randomBytes(1 << 20), count = 64;
  const { url } = await serve(t, async (peer) => {
    const write = async (bytes, send) => send(bytes) || once(peer.socket, 'drain');
    if (carrier === 'upgrade') {
      for (let part; (part = await peer.bytes());) await write(part, (b) => peer.socket.write(b));
      peer.socket.end();
      return;
    }
    for (let item; (item = await peer.next()).type !== FINAL_DATA;) {
      if (item.type === DATA) await write(item.value, (b) => peer.send(DATA, b));
    }
    peer.send(FINAL_DATA);
    peer.send(PING, Buffer.alloc(8));
    await peer.goodbye();
    if (carrier === 'websocket') assert.ok(new Set(peer.masks).size > peer.masks.length - 9); // M53
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  const sent = createHash('sha256'), received = createHash('sha256');
  const write = async () => {
    const writer = tunnel.writable.getWriter();
    for (let i = 0; i < count; i++) {
      block.writeUInt32BE(i);
      sent.update(block);
      await writer.write(block); // the buffer may be used again when this resolves
    }
    await writer.close();
  };
  let size = 0;
  const readAll = async () => {
    for await (const part of tunnel.readable) {
      received.update(part);
      size += part.length;
    }
  };
  await Promise.all([write(), readAll()]);
  assert.equal(size, count << 20);
  assert.equal(received.digest('hex'), sent.digest('hex'));
  await tunnel.closed;
});

each(all, 'a reader that does not read bounds the writer', async (t, carrier) => {
  const full = deferred(), go = deferred();
  let queued = 0, total = 0;
  const { url } = await serve(t, async (peer) => {
    const block = Buffer.alloc(32_768);
    const send = () => (carrier === 'upgrade' ? peer.socket.write(block) : peer.send(DATA, block));
    // The client does not read, so the kernel's buffers fill, and then what Node queues here.
    while (peer.socket.writableLength < 1 << 20) {
      send();
      total += block.length;
      assert.ok(total < 1 << 28, 'the client takes what nobody reads');
      await new Promise((resolve) => { setImmediate(resolve); });
    }
    queued = total;
    full.resolve();
    await go.promise;
    if (carrier === 'upgrade') peer.socket.end();
    else peer.send(FINAL_DATA);
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  await full.promise;
  go.resolve();
  const got = await read(tunnel.readable.getReader());
  assert.deepEqual([got.bytes.length, got.done], [queued, true]);
});

each(all, 'a peer that does not read bounds the client', async (t, carrier) => {
  const blocked = deferred();
  const { url } = await serve(t, () => blocked.promise); // it never reads
  const tunnel = await connect(url, { carriers: [carrier] });
  const writer = tunnel.writable.getWriter(), block = new Uint8Array(1 << 20);
  let written = 0, waits = 0;
  while (waits < 1000) {
    assert.ok(written < 1 << 28, 'the client takes what the network does not');
    let done = false;
    writer.write(block).then(() => { done = true; }, () => {});
    for (waits = 0; !done && waits < 1000; waits++) {
      await new Promise((resolve) => { setImmediate(resolve); });
    }
    written += block.length;
  }
  const reason = new Error('enough');
  await writer.abort(reason); // does not wait for the write that is blocked
  await assert.rejects(tunnel.closed, reason);
  blocked.resolve();
});

each(framing, 'two peers with full windows do not wait for each other', async (t, carrier) => {
  const { url } = await serve(t, async (peer) => {
    const data = Buffer.alloc(32_768);
    // Neither side takes data; then come PINGs, which the client must read all the same (M39).
    while (peer.socket.writableLength < 1 << 20) peer.send(DATA, data);
    peer.send(PING, Buffer.alloc(8, 1));
    peer.send(PING, Buffer.alloc(8, 2));
    peer.send(FINAL_DATA);
    await once(peer.socket, 'drain'); // the client has read, though its own writes are blocked
    await peer.until(PONG);
    assert.equal((await peer.until(FINAL_DATA)).value.length, 0);
    await peer.goodbye();
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  const writer = tunnel.writable.getWriter();
  const write = async () => {
    for (let i = 0; i < 16; i++) await writer.write(new Uint8Array(1 << 20));
    await writer.close();
  };
  const [got] = await Promise.all([read(tunnel.readable.getReader()), write()]);
  assert.ok(got.done);
});

each(framing, 'silence is broken by PINGs, and PONGs are ignored', async (t, carrier) => {
  const seen = deferred();
  const { url } = await serve(t, async (peer) => {
    const first = await peer.until(PING), second = await peer.until(PING);
    assert.notDeepEqual(first.value, second.value);
    peer.send(PONG, second.value);
    seen.resolve();
    await peer.until(FINAL_DATA);
    peer.send(FINAL_DATA);
    peer.send(PING, Buffer.alloc(8));
    await peer.goodbye();
  });
  const tunnel = await connect(url, { carriers: [carrier], pingInterval: 20 });
  await seen.promise;
  await tunnel.writable.close();
  assert.ok((await read(tunnel.readable.getReader())).done);
  assert.deepEqual(await tunnel.closed, { confirmed: true });
});

each(framing, 'an early end is an error behind the bytes before it', async (t, carrier) => {
  const { url } = await serve(t, async (peer) => {
    peer.send(DATA, text('hel'));
    peer.send(DATA, text('lo'));
    peer.socket.end();
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  await assert.rejects(tunnel.closed, { reason: 'truncated' });
  const got = await read(tunnel.readable.getReader()); // read only now: nothing may be lost
  assert.deepEqual([got.bytes.toString(), got.error.reason], ['hello', 'truncated']);
  await assert.rejects(tunnel.writable.getWriter().write(text('x')), { reason: 'truncated' });
});

each(all, 'a reset is an error', async (t, carrier) => {
  const { url } = await serve(t, async (peer) => {
    // A reset behind bytes that were not read yet would be an end for Node.
    await (carrier === 'upgrade' ? peer.bytes() : peer.until(DATA));
    peer.socket.resetAndDestroy();
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  const reading = read(tunnel.readable.getReader());
  await tunnel.writable.getWriter().write(text('ready'));
  const got = await reading;
  assert.equal(got.error.reason, 'reset');
  await assert.rejects(tunnel.closed, { reason: 'reset' });
});

each(framing, 'an end behind both ends is clean, though unconfirmed', async (t, carrier) => {
  const { url } = await serve(t, async (peer) => {
    peer.send(FINAL_DATA);
    await peer.until(FINAL_DATA);
    if (carrier === 'websocket') peer.close([3, 232]);
    peer.socket.end();
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  await tunnel.writable.close();
  assert.ok((await read(tunnel.readable.getReader())).done);
  assert.deepEqual(await tunnel.closed, { confirmed: false });
});

each(framing, 'writes fail when the peer ends the transport behind its end', async (t, carrier) => {
  const { url } = await serve(t, async (peer) => {
    peer.send(FINAL_DATA, text('bye'));
    peer.socket.end();
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  await assert.rejects(tunnel.closed, { reason: 'closed' });
  const got = await read(tunnel.readable.getReader());
  assert.deepEqual([got.bytes.toString(), got.done], ['bye', true]);
  await assert.rejects(tunnel.writable.getWriter().write(text('x')), { reason: 'closed' });
});

each(all, 'an abort ends both directions without FINAL_DATA', async (t, carrier) => {
  const seen = deferred();
  const { url } = await serve(t, async (peer) => {
    if (carrier === 'upgrade') return seen.resolve(peer.bytes().catch((error) => error.code));
    const items = [];
    for (let item; (item = await peer.next());) items.push(item.opcode ?? item.type);
    return seen.resolve(items);
  });
  const stop = new AbortController(), reason = new Error('no longer needed');
  const tunnel = await connect(url, { carriers: [carrier], signal: stop.signal });
  const reading = read(tunnel.readable.getReader());
  stop.abort(reason);
  assert.equal((await reading).error, reason);
  await assert.rejects(tunnel.closed, reason);
  await assert.rejects(tunnel.writable.getWriter().write(text('x')), reason);
  const expected = { upgrade: 'ECONNRESET', framed: [], websocket: [8] }; // 8: a Close (M65)
  assert.deepEqual(await seen.promise, expected[carrier]);
});

each(framing, 'an abort behind both ends loses nothing', async (t, carrier) => {
  const { url } = await serve(t, async (peer) => {
    peer.send(DATA, text('hello'));
    peer.send(FINAL_DATA); // without the PING that the client would answer (M45)
    peer.send(PONG, (await peer.until(PING)).value);
    await peer.next();
  });
  const stop = new AbortController();
  const tunnel = await connect(url, { carriers: [carrier], signal: stop.signal });
  await tunnel.writable.close();
  assert.deepEqual(await tunnel.closed, { confirmed: true });
  assert.equal(getEventListeners(stop.signal, 'abort').length, 0);
  stop.abort();
  await new Promise((resolve) => { setImmediate(resolve); }); // an abort could have an effect by now
  const got = await read(tunnel.readable.getReader());
  assert.deepEqual([got.bytes.toString(), got.done], ['hello', true]);
});

each(framing, 'an abort discards what nobody has read', async (t, carrier) => {
  const answered = deferred();
  const { url } = await serve(t, async (peer) => {
    peer.send(FINAL_DATA, text('hello'));
    peer.send(PING, Buffer.alloc(8));
    await peer.until(PONG);
    answered.resolve(); // the client has everything
    await peer.next();
  });
  const stop = new AbortController(), reason = new Error('no longer needed');
  const tunnel = await connect(url, { carriers: [carrier], signal: stop.signal });
  await answered.promise;
  stop.abort(reason);
  await assert.rejects(tunnel.closed, reason);
  const got = await read(tunnel.readable.getReader());
  assert.deepEqual([got.bytes.length, got.error], [0, reason]);
});

each(framing, 'a peer that does not send its last PING is not awaited for ever', async (t, carrier) => {
  const ended = deferred();
  const { url } = await serve(t, async (peer) => {
    peer.send(FINAL_DATA);
    peer.send(PONG, (await peer.until(PING)).value);
    ended.resolve(peer.goodbye());
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  await tunnel.writable.close();
  assert.deepEqual(await tunnel.closed, { confirmed: true });
  assert.deepEqual(await ended.promise, carrier === 'websocket' ? [1000] : []);
});

each(framing, 'capsules and frames have lengths in their shortest form', async (t, carrier) => {
  const sizes = [0, 1, 63, 64, 119, 120, 16_383, 16_384, 32_768, 32_769];
  const { url } = await serve(t, async (peer) => { // which checks each length (M31, M53)
    const lengths = [];
    await peer.until(FINAL_DATA, (value) => lengths.push(value.length));
    assert.deepEqual(lengths, [...sizes.slice(1, -1), 32_768, 1]); // nothing for no bytes
    peer.send(FINAL_DATA);
    peer.send(PONG, (await peer.until(PING)).value);
    peer.send(PING, Buffer.alloc(8));
    await peer.goodbye();
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  const writer = tunnel.writable.getWriter();
  writer.closed.catch(() => {}); // if the peer has failed, tunnel.closed tells it
  for (const size of sizes) writer.write(new Uint8Array(size)).catch(() => {});
  writer.close().catch(() => {});
  assert.deepEqual(await tunnel.closed, { confirmed: true });
});

test('the error of another tunnel chooses neither the Close code nor the next carrier', async (t) => {
  const codes = deferred();
  const { url, requests } = await serve(t, (peer) => (requests.length > 1 ? peer.next()
    : codes.resolve(peer.goodbye())));
  const tunnel = await connect(url, { carriers: ['websocket', 'framed'] });
  const error = Object.assign(new Error('broken'), { closeCode: 1002, falls: true });
  await tunnel.writable.abort(error); // as pipeTo does it
  assert.deepEqual(await codes.promise, [1000]);
  await (await connect(url, { carriers: ['framed'] })).writable.abort(); // behind whatever the abort began
  assert.equal(requests.length, 2);
});

test('views and buffers are bytes too', async (t) => {
  const got = deferred();
  const { url } = await serve(t, async (peer) => {
    const data = [];
    await peer.until(FINAL_DATA, (value) => data.push(value));
    got.resolve(Buffer.concat(data).toString());
    await peer.goodbye();
  });
  const tunnel = await connect(url, { carriers: ['framed'] });
  const writer = tunnel.writable.getWriter(), bytes = text('xhellox').buffer;
  await writer.write(new DataView(bytes, 1, 5));
  await writer.write(bytes);
  await writer.close();
  assert.equal(await got.promise, 'helloxhellox');
  await writer.abort();
});

each(framing, 'a protocol error ends the direction, with its Close', async (t, carrier) => {
  const seen = deferred();
  const { url } = await serve(t, async (peer) => {
    peer.raw(text('HTTP'));
    seen.resolve(await peer.goodbye());
  });
  const tunnel = await connect(url, { carriers: [carrier] });
  await assert.rejects(tunnel.closed, { reason: 'malformed', closeCode: 1002 });
  assert.deepEqual(await seen.promise, carrier === 'websocket' ? [1002] : []);
});

test('a readable that is cancelled does not hold the peer up', async (t) => {
  const { url } = await serve(t, async (peer) => {
    await peer.until(DATA);
    for (let i = 0; i < 256; i++) {
      if (!peer.send(DATA, Buffer.alloc(32_768))) await once(peer.socket, 'drain');
    }
    peer.send(FINAL_DATA);
    peer.send(PING, Buffer.alloc(8));
    await peer.goodbye();
  });
  const tunnel = await connect(url, { carriers: ['framed'] });
  await tunnel.readable.cancel();
  const writer = tunnel.writable.getWriter();
  await writer.write(text('go'));
  await writer.close();
  assert.deepEqual(await tunnel.closed, { confirmed: true });
});

test('what is written must be bytes', async (t) => {
  const { url } = await serve(t, (peer) => peer.next());
  for (const chunk of ['text', -1, null, { byteLength: 3 }]) {
    const tunnel = await connect(url, { carriers: ['framed'] });
    await assert.rejects(tunnel.writable.getWriter().write(chunk), TypeError);
    await assert.rejects(tunnel.closed, TypeError);
  }
});

test('a signal stops what waits for an answer, and what has not begun', async (t) => {
  const stop = new AbortController(), reason = new Error('stop');
  const { url, sockets } = await serve(t, null, () => { stop.abort(reason); });
  await assert.rejects(connect(url, { signal: stop.signal }), reason);
  await assert.rejects(connect(url, { signal: stop.signal }), reason);
  assert.equal(sockets.size, 1);
});

test('a server that does not answer is given up, without another carrier', async (t) => {
  const { url, requests } = await serve(t, null, () => {});
  const error = { name: 'PreflightError', reason: 'timeout' };
  await assert.rejects(connect(url, { timeout: 100 }), error);
  assert.ok(requests.length < 2);
});

test('the time for the answer is that of all carriers together', async (t) => {
  let now = 0, reason;
  t.mock.method(performance, 'now', () => now);
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const second = deferred();
  const { url, requests } = await serve(t, null, () => {
    if (requests.length === 2) second.resolve();
    else now = 20_000;
    return requests.length === 1 && 'HTTP/1.1 403 x\r\n\r\n';
  });
  connect(url).catch((error) => { reason = error.reason; });
  await second.promise;
  t.mock.timers.tick(10_000);
  await new Promise((resolve) => { setImmediate(resolve); });
  assert.equal(reason, 'timeout');
});

test('the time for the answer does not bound the tunnel', async (t) => {
  const { url } = await serve(t, async (peer) => {
    for (let i = 0; i < 120; i++) await peer.until(PING); // each comes 10 ms behind the one before
    peer.send(FINAL_DATA);
    await peer.goodbye();
  });
  const tunnel = await connect(url, { carriers: ['framed'], timeout: 1000, pingInterval: 10 });
  assert.ok((await read(tunnel.readable.getReader())).done);
  await tunnel.writable.abort();
});

test('a refusal tells status, code and carriers, and nothing secret', async (t) => {
  const { url } = await serve(t, null, (request, socket) => {
    socket.end('HTTP/1.1 403 Forbidden\r\nPreflight-Refusal: authorize\r\n'
      + 'Preflight-Carriers: upgrade, websocket\r\nContent-Length: 0\r\n\r\n');
  });
  const error = await connect(`${url}?token=SECRET`, { headers: { Authorization: 'SECRET' } })
    .catch((caught) => caught);
  assert.ok(error instanceof RefusalError && error instanceof PreflightError);
  const { name, reason, status, code, carriers } = error;
  assert.deepEqual({ name, reason, status, code, carriers }, {
    name: 'RefusalError', reason: 'refused', status: 403, code: 'authorize',
    carriers: ['upgrade', 'websocket'],
  });
  assert.match(error.message, /carrier upgrade with status 403: authorize; README\.md .* codes/);
  assert.doesNotMatch(error.stack, /SECRET|token/);
});

test('a refusal is reported without its body, on a connection that stays open', async (t) => {
  const { url } = await serve(t, null, () => 'HTTP/1.1 401 x\r\nContent-Length: 100\r\n\r\nhalf of it');
  await assert.rejects(connect(url), { reason: 'refused', status: 401, falls: false });
});

test('an answer that does not end is not read for ever', async (t) => {
  const endless = `HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 x\r\nX: ${'x'.repeat(65_536)}`;
  const { url } = await serve(t, null, () => endless); // and it stays open
  await assert.rejects(connect(url), { reason: 'handshake' });
});

test('the client falls to the next carrier on a new connection', async (t) => {
  const { url, requests, sockets } = await serve(t, (peer) => peer.goodbye(), (request, socket) => {
    if (/^upgrade: websocket/mi.test(request)) return switching(request);
    return void socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n');
  });
  const carriers = ['upgrade', 'framed', 'websocket', 'upgrade'];
  const tunnel = await connect(url, { carriers, protocols: ['bearer.abc'], protocol: 'tcp' });
  assert.equal(tunnel.carrier, 'websocket');
  assert.equal(sockets.size, 3);
  const offers = requests.map((request) => /Preflight-Carriers: (.*)\r/.exec(request)[1]);
  assert.deepEqual(offers, ['upgrade, framed, websocket', 'framed, websocket', 'websocket']); // M66
  assert.match(requests[2], /^Sec-WebSocket-Protocol: preflight\.v1, bearer\.abc\r$/m);
  assert.match(requests[2], /^Preflight-Framing: capsule\r$/m);
  assert.doesNotMatch(requests[0], /Sec-WebSocket|Framing|Origin/);
  await tunnel.writable.abort();
});

test('a protocol may have a version', async (t) => {
  const { url, requests } = await serve(t, (peer) => peer.bytes());
  const tunnel = await connect(url, { carriers: ['upgrade'], protocol: 'amqp/1.0' });
  assert.match(requests[0], /^Upgrade: amqp\/1\.0\r$/m);
  await tunnel.writable.abort();
});

test('each request of a WebSocket has a fresh key', async (t) => {
  const { url, requests } = await serve(t, (peer) => peer.next());
  for (let i = 0; i < 2; i++) {
    await (await connect(url, { carriers: ['websocket'] })).writable.abort();
  }
  const keys = requests.map((request) => /^Sec-WebSocket-Key: (.*)\r$/m.exec(request)[1]);
  assert.deepEqual(keys.map((key) => Buffer.from(key, 'base64').length), [16, 16]); // M48
  assert.notEqual(keys[0], keys[1]);
});

test('a host that nobody listens at is unreachable', async (t) => {
  const { url, sockets } = await serve(t);
  const nobody = url.replace(/:\d+/, ':1');
  await assert.rejects(connect(nobody), { reason: 'unreachable' });
  assert.equal(sockets.size, 0);
});

test('TLS offers http/1.1 alone, and carries all carriers', async (t) => {
  const psk = randomBytes(32), ciphers = 'PSK-AES128-GCM-SHA256';
  const secure = (options, handle) => tls.createServer({
    ...options, ciphers, maxVersion: 'TLSv1.2', ALPNProtocols: ['h2', 'http/1.1'],
    pskCallback: () => psk,
  }, handle);
  const alpn = [];
  const { url } = await serve(t, async (peer) => {
    alpn.push(peer.socket.alpnProtocol);
    const part = await peer.bytes();
    peer.socket.end(part);
    assert.equal(await peer.bytes(), null);
  }, switching, secure);
  const tunnel = await connect(url.replace('ws:', 'tcps:'), {
    tls: { ciphers, maxVersion: 'TLSv1.2', checkServerIdentity() {},
      pskCallback: () => ({ psk, identity: 'test' }) },
  });
  const writer = tunnel.writable.getWriter();
  await writer.write(text('inside TLS'));
  const got = await read(tunnel.readable.getReader());
  assert.deepEqual([got.bytes.toString(), got.done], ['inside TLS', true]);
  await writer.close();
  await tunnel.closed;
  assert.deepEqual(alpn, ['http/1.1']);
});

test('the request waits for the check of the certificate', async (t) => {
  const psk = randomBytes(32), ciphers = 'PSK-AES128-GCM-SHA256', maxVersion = 'TLSv1.2';
  const server = tls.createServer({ ciphers, maxVersion, pskCallback: () => psk });
  const got = [], accepted = once(server, 'secureConnection');
  server.on('secureConnection', (socket) => socket.on('error', () => {}).on('data', (part) => got.push(part)));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const check = { checkServerIdentity: () => new Error('another server') };
  await assert.rejects(connect(`wss://127.0.0.1:${server.address().port}/`, {
    headers: { Authorization: 'SECRET' },
    tls: { ciphers, maxVersion, ...check, pskCallback: () => ({ psk, identity: 'test' }) },
  }), { reason: 'unreachable' });
  const [socket] = await accepted; // the server has no reason to refuse
  if (!socket.destroyed) await once(socket, 'close');
  assert.equal(Buffer.concat(got).length, 0);
});

test('what cannot work is refused before a connection, and keeps secrets', async () => {
  const bad = [
    ['not a url', {}], ['ftp://h/', {}], ['ws://user:SECRET@h/', {}], ['ws://h:99999/?SECRET', {}],
    ['ws://h/', { headers: { 'Preflight-X': '' } }], ['ws://h/', { headers: { Host: 'x' } }],
    ['ws://h/', { headers: { 'Sec-WebSocket-Key': 'x' } }], ['ws://h/', { headers: { 'a b': '' } }],
    ['ws://h/', { headers: [['X', 'SECRET\r\nY: 1']] }], ['ws://h/', { carriers: [] }],
    ['ws://h/', { carriers: ['other'] }],
    ['ws://h/', { carriers: ['upgrade,framed'] }], ['ws://h/', { protocols: ['SECRET SECRET'] }],
    ['ws://h/', { protocols: ['preflight.v1'] }], ['ws://h/', { protocol: 'TCP' }],
    ['ws://h/', { protocol: 'websocket' }], ['ws://h/', { protocol: 'amqp/1/0' }], ['ws://h/', { protocol: '/1' }],
  ];
  for (const [url, options] of bad) {
    const error = await connect(url, options).catch((caught) => caught);
    assert.ok(error instanceof TypeError, `${url} ${JSON.stringify(options)}`);
    assert.doesNotMatch(`${error.stack} ${error.input} ${error.cause}`, /SECRET/);
  }
  await assert.rejects(connect('ws://h/', { timeout: 0 }), RangeError);
  await assert.rejects(connect('ws://h/', { pingInterval: Infinity }), RangeError);
});

// The vectors over real sockets: the bytes answer the first request, the tunnel carries the rest.
for (const vector of vectors('response-head').filter(({ tls: inside }) => !inside)) {
  test(`connect: ${vector.id}`, async (t) => {
    const { url, requests } = await serve(t, null, (request, socket) => {
      if (requests.length > 1) return void socket.end('HTTP/1.1 500 x\r\n\r\n');
      const key = /^Sec-WebSocket-Key: (.*)\r$/m.exec(request)?.[1];
      const given = vector.bytes.toString('latin1');
      socket.write(key ? given.replace(ACCEPT, accept(key)) : given, 'latin1');
      if (vector.transport === 'end') socket.end();
      if (vector.transport === 'reset') socket.resetAndDestroy();
    });
    const options = { carriers: vector.carriers.split(', '), protocol: vector.protocols ?? 'tcp' };
    if (vector.expect !== 'accept') {
      await assert.rejects(connect(url, options), PreflightError);
      assert.equal(requests.length, vector.expect === 'fall' ? 2 : 1);
      return;
    }
    const tunnel = await connect(url, options);
    assert.equal(tunnel.carrier, vector.carrier);
    const data = Buffer.from(vector.data, 'hex'), reader = tunnel.readable.getReader();
    const got = await read(reader, vector.end === 'open' ? data.length : Infinity);
    assert.deepEqual([got.bytes, got.error], [data, undefined]);
    tunnel.writable.abort();
  });
}
