// What all carriers share: errors, capsules and the tunnel. M1 to M80 are the requirements of
// spec/preflight.md. This file is not public: only what preflight.js exports is.

const DATA = 0x2d70f100, FINAL_DATA = 0x2d70f101, PING = 0x2d70f104, PONG = 0x2d70f105;
const MARK = [0xad, 0x70, 0xf1]; // how each of them begins
const CAPSULE_MAX = 32_768; // bytes of the application in one capsule (M31)
export const QUEUE_MAX = 65_536; // bytes that wait for the application or, in browsers, the net
export const LINGER = 2_000; // ms that the peer has to end what we have ended (M47)
const GIVE_UP = 60_000; // ms that it has to end what nobody reads any more (M45)

export class PreflightError extends Error {
  constructor(reason, message, options) {
    super(`preflight: ${message}`, options);
    Object.assign(this, { name: new.target.name, reason });
  }
}

export class RefusalError extends PreflightError {
  constructor(message, { status, code, carriers = [] } = {}) {
    super('refused', message);
    Object.assign(this, { status, code, carriers });
  }
}

export const malformed = (what, closeCode = 1002) => Object.assign(new PreflightError('malformed',
  `${what}: the peer, or a proxy before it, broke the protocol`), { closeCode });

export function later(ms, act) {
  const timer = setTimeout(act, ms);
  timer.unref?.(); // the socket keeps Node alive, not the timer
  return timer;
}

// ---- Capsules (section 5.2)

export function capsule(type, value) {
  const n = value.length;
  const length = n < 64 ? [n] : n < 16_384 ? [64 | n >> 8, n & 255] : [128, 0, n >> 8, n & 255];
  const bytes = new Uint8Array(4 + length.length + n);
  bytes.set([...MARK, type & 255, ...length]);
  bytes.set(value, 4 + length.length);
  return bytes;
}

// A parser is a generator: it yields how many bytes it wants, and where they go as they come.
// So no length that the peer declares reserves memory (M79).
export function decoder(parser) {
  let [left, pass] = parser.next().value;
  return (bytes) => {
    for (let i = 0; i < bytes.length && left;) {
      const part = bytes.subarray(i, i + left);
      i += part.length;
      left -= part.length;
      pass(part);
      if (left === 0) [left, pass] = parser.next().value ?? [0];
    }
  };
}

export function* take(count) {
  const bytes = [];
  if (count) yield [count, (part) => bytes.push(...part)];
  return bytes;
}

// Numbers are exact up to 2^53, and no stream gets so long.
export const number = (bytes) => bytes.reduce((value, byte) => value * 256 + byte, 0);

function* varint(bytes = []) {
  if (bytes.length === 0) bytes.push(...yield* take(1));
  const size = 1 << (bytes[0] >> 6);
  bytes.push(...yield* take(size - bytes.length));
  return [number([bytes[0] & 63, ...bytes.slice(1)]), size];
}

export function* capsules(sink) {
  for (let first = true, final = false; ; first = false) {
    const start = [];
    for (const byte of first ? MARK : []) {
      start.push(...yield* take(1));
      if (start.at(-1) !== byte) throw malformed('the first bytes are not those of a capsule');
    }
    const [type, size] = yield* varint(start);
    const data = type === DATA || type === FINAL_DATA, control = type === PING || type === PONG;
    if (size > 1 && type < 2 ** (4 * size - 2)) throw malformed('a capsule type is too long');
    if (first && !data && !control) throw malformed('the first capsule is of an unknown type');
    if (final && data) throw malformed('there is data behind FINAL_DATA');
    const [length] = yield* varint();
    if (control && length !== 8) throw malformed('a PING or PONG does not have 8 bytes');
    if (!control && !data && length > 65_536) throw malformed('an unknown capsule is too long');
    if (control) sink[type === PING ? 'ping' : 'pong'](Uint8Array.from(yield* take(8)));
    else if (length) yield [length, data ? sink.data : () => {}];
    if (type === FINAL_DATA) sink.final();
    final ||= type === FINAL_DATA;
  }
}

// ---- The tunnel, over a link: { attach, send, end, blocked, pause, resume, close }

export class Tunnel {
  over = false; // nothing that comes is interpreted any more
  #link; #plain; #interval; #decode; #reader; #writer; #resolve; #reject; #error; #timer; #limit;
  #queue = []; #queued = 0; #dropping = false; #wakeReader; #wakeWriter;
  #inFinal = false; #outFinal = false; #confirmed = false; // by a PONG
  #pings = 0; #finalPing = Infinity; #pong = null; #asked = false; #lastSent = Date.now();

  constructor(link, carrier, signal, pingInterval) {
    [this.#link, this.#plain, this.#interval] = [link, carrier === 'upgrade', pingInterval];
    const sink = { data: this.#data, final: this.#final, ping: this.#onPing, pong: this.#onPong };
    this.#decode = this.#plain ? this.#data : decoder(capsules(sink));
    this.closed = new Promise((resolve, reject) => {
      [this.#resolve, this.#reject] = [resolve, reject];
    });
    this.closed.catch(() => {}); // who does not look at it must not get an unhandled rejection
    // The queue is our own: an error would drop what waits in that of ReadableStream (M41).
    this.readable = new ReadableStream({
      start: (controller) => { this.#reader = controller; },
      pull: () => this.#pull(),
      cancel: () => this.#cancel(),
    }, { highWaterMark: 0 });
    this.writable = new WritableStream({
      start: (controller) => {
        this.#writer = controller;
        // Later, because Node 20 fails if the controller is used while it signals.
        controller.signal.addEventListener('abort', () => {
          queueMicrotask(() => this.#abort(controller.signal.reason));
        });
      },
      write: (chunk) => this.#write(chunk),
      close: () => this.#close(),
    });
    if (!this.#plain) this.#beat();
    link.attach(this);
    signal.addEventListener('abort', () => this.#abort(signal.reason));
    if (signal.aborted) this.#abort(signal.reason);
  }

  // What the link calls.
  get full() { return this.#queued >= QUEUE_MAX && !this.#inFinal; }
  receive = (bytes) => { if (!this.over) this.#decode(bytes); };
  ended(error) {
    if (this.over) return;
    if (this.#plain && !error) this.#final();
    else if (this.#inFinal && this.#outFinal && !error) this.#settle();
    else if (error) this.fail(error);
    else if (this.#inFinal) {
      this.fail(new PreflightError('closed', 'the peer ended the connection, so it reads no more'));
    } else this.fail(new PreflightError('truncated', 'the connection ended before the stream did'));
  }
  drained() {
    if (this.over) return;
    if (this.#pong) this.#send(PONG, this.#pong);
    this.#pong = null;
    this.#wakeWriter?.();
    this.#check();
  }
  fail(error) {
    if (this.over) return;
    this.#error = error;
    this.#writer.error(error);
    this.#reject(error);
    this.#finish(error.closeCode ?? 1000);
  }

  #abort(given) {
    if (this.over) return;
    const reason = given || new DOMException('preflight: the tunnel was aborted', 'AbortError');
    this.#reader.error(reason);
    this.fail(reason);
  }
  #finish(code) {
    this.over = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#limit);
    this.#wakeReader?.();
    this.#wakeWriter?.();
    if (!this.#plain || this.#error) this.#link.close(code); // the plain one ends by itself
  }
  #settle() {
    this.#resolve({ confirmed: this.#confirmed });
    this.#finish(1000);
  }
  #check() {
    if (this.over || !this.#inFinal || !this.#outFinal) return;
    if (this.#plain || (this.#confirmed && this.#asked && !this.#pong)) return this.#settle();
    if (!this.#confirmed) return;
    // Both directions are complete. The peer still wants the PONG for the PING behind its end.
    this.#resolve({ confirmed: true });
    this.#limit ??= later(LINGER, () => this.#finish(1000));
  }

  // Receiving
  #data = (bytes) => {
    if (this.#dropping) return;
    this.#queue.push(new Uint8Array(bytes)); // a copy: the application may transfer its buffer
    this.#queued += bytes.length;
    if (this.full) this.#link.pause();
    this.#wakeReader?.();
  };
  #final = () => {
    this.#inFinal = true;
    clearTimeout(this.#limit);
    this.#link.resume(); // what comes behind must still be read (M43)
    this.#wakeReader?.();
    this.#check();
  };
  #onPing = (value) => {
    [this.#pong, this.#asked] = [value, this.#inFinal];
    if (!this.#link.blocked) this.drained(); // else the newest waits, and reading goes on (M39)
  };
  #onPong = (value) => {
    const answered = number(value);
    if (answered >= this.#finalPing && answered <= this.#pings) this.#confirmed = true;
    this.#check();
  };
  async #pull() {
    while (!this.#queue.length && !this.#inFinal && !this.#error) {
      await new Promise((resolve) => { this.#wakeReader = resolve; });
    }
    if (this.#queue.length) {
      const part = this.#queue.shift();
      this.#queued -= part.length;
      if (!this.full) this.#link.resume();
      this.#reader.enqueue(part);
    } else if (this.#inFinal) this.#reader.close();
    else this.#reader.error(this.#error);
  }
  #cancel() {
    [this.#dropping, this.#queue] = [true, []];
    this.#link.resume();
    this.#hurry();
  }
  #hurry() { // Nobody reads, and all is written: the peer's end is awaited no longer than this.
    if (!this.#dropping || !this.#outFinal || this.#inFinal || this.over) return;
    this.#limit = later(GIVE_UP, () => this.fail(new PreflightError('timeout',
      'the peer has not ended its stream, which nobody reads; the connection was given up')));
  }

  // Sending
  #send(type, value) {
    this.#lastSent = Date.now();
    this.#link.send(this.#plain ? value.slice() : capsule(type, value));
  }
  #ping() {
    const value = new Uint8Array(8);
    new DataView(value.buffer).setUint32(4, ++this.#pings);
    this.#send(PING, value);
  }
  #beat() {
    const silence = Date.now() - this.#lastSent;
    if (silence >= this.#interval && !this.#link.blocked) this.#ping();
    this.#timer = later(this.#interval - silence % this.#interval, () => this.#beat());
  }
  async #write(chunk) {
    const bytes = chunk instanceof ArrayBuffer ? new Uint8Array(chunk) : ArrayBuffer.isView(chunk)
      && new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    if (!bytes) this.#abort(new TypeError('preflight: not bytes; encode text with TextEncoder'));
    for (let i = 0; i < bytes.length && !this.over; i += CAPSULE_MAX) {
      this.#send(DATA, bytes.subarray(i, i + CAPSULE_MAX));
      while (this.#link.blocked && !this.over) {
        await new Promise((resolve) => { this.#wakeWriter = resolve; });
      }
    }
    if (this.over) throw this.#error;
  }
  async #close() {
    if (this.#plain) await this.#link.end();
    else {
      this.#send(FINAL_DATA, new Uint8Array(0));
      this.#ping(); // its PONG says that the peer has read everything (M44)
      this.#finalPing = this.#pings;
    }
    this.#outFinal = true;
    this.#hurry();
    this.#check();
  }
}
