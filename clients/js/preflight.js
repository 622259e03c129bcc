// A client of spec/preflight.md for browsers and Node. M1 to M80 are the requirements of that document.
const DATA = 0x2d70f100, FINAL_DATA = 0x2d70f101, PING = 0x2d70f104, PONG = 0x2d70f105;
const MARK = [0xad, 0x70, 0xf1], CAPSULE_MAX = 32_768; // how each of them begins; bytes in one DATA (M31)
const HEADS_MAX = 65_536, QUEUE_MAX = 65_536; // bytes of an answer (M24), and bytes that wait for somebody
const LINGER = 2_000, GIVE_UP = 60_000; // ms for the end of the peer, and if nobody reads its stream (M45)
const NAME = "[!#$%&'*+.^_`|~0-9A-Za-z-]+", TEXT = '[\\t -~\\x80-\\xff]*', END = '\\r?\\n';
const TOKEN = new RegExp(`^${NAME}$`), VALUE = new RegExp(`^${TEXT}$`), FIELD = `${NAME}:${TEXT}${END}`;
const PROTOCOL = new RegExp(`^(?!websocket$|.*[A-Z])${NAME}(/${NAME})?$`);
const FIELDS = `(?:${FIELD}(?:[ \\t]${TEXT}${END})*)*`; // perhaps folded (M25)
const HEAD = new RegExp(`^HTTP/1\\.\\d ([1-9]\\d\\d)(?: ${TEXT})?${END}(${FIELDS})${END}$`);
// The exchange sets these fields itself, or must not have them (M2, M4).
const OWN = /^((preflight|sec-websocket)-.*|host|connection|upgrade|content-length|expect|trailer|transfer-encoding)$/i;

export class PreflightError extends Error {
  constructor(reason, message, more) {
    Object.assign(super(`preflight: ${message}`), { name: new.target.name, reason, ...more });
  }
}
export class RefusalError extends PreflightError {}
const unlike = (what, more) => new PreflightError('handshake', `${what}; check the URL, and the proxies`, more);
const malformed = (what, closeCode = 1002) =>
  new PreflightError('malformed', `${what}: the peer, or a proxy before it, broke the protocol`, { closeCode });

/** Opens a tunnel; index.d.ts describes the options. */
export async function connect(url, options = {}) {
  const inNode = globalThis.process?.versions?.node !== undefined;
  const { protocols = [], protocol = 'tcp', headers = {}, timeout = 30_000, pingInterval = 20_000 } = options;
  const { tls, signal = new AbortController().signal } = options;
  const carriers = [...new Set(options.carriers ?? (inNode ? ['upgrade', 'websocket'] : ['websocket']))];
  const names = ['preflight.v1', ...protocols];
  const fields = [...(headers[Symbol.iterator] ? headers : Object.entries(headers))];
  const wrong = fields.find(([name, value]) => !TOKEN.test(name) || OWN.test(name) || !VALUE.test(value));
  // The scheme decides how a URL is parsed, so it becomes one that URL knows.
  const text = String(url).replace(/^(?:ws|tcp)(s?):/i, 'http$1:');
  const target = URL.canParse(text) ? new URL(text) : {}; // an error of URL would hold a secret query
  for (const [fault, what, Kind = TypeError] of [
    [!/^https?:$/.test(target.protocol), 'the URL does not begin with ws, wss, http, https, tcp or tcps'],
    [target.username || target.password, 'the URL holds credentials; send them in headers or protocols'],
    [!carriers.length || carriers.some((one) => !/^(upgrade|framed|websocket)$/.test(one)),
      'carriers lists upgrade, framed, websocket'],
    [names.some((name, i) => !TOKEN.test(name) || names.indexOf(name) < i), 'protocols are different tokens'],
    [!PROTOCOL.test(protocol), 'protocol is name or name/version, in lower case, and not websocket'],
    [wrong, `the header ${JSON.stringify(wrong?.[0])} cannot be set, or its value has a control character`],
    [!inNode && (!carriers.includes('websocket') || fields.length || protocol !== 'tcp'),
      'browsers have only the carrier websocket, the protocol tcp and no headers; put a credential into protocols'],
    [![timeout, pingInterval].every((ms) => ms >= 1 && ms < 2 ** 31), 'times are from 1 to 2^31 ms', RangeError],
  ]) if (fault) throw new Kind(`preflight: ${what}`);
  signal.throwIfAborted();
  const start = performance.now(), { host } = target;
  const request = { target, host, carriers, names, protocol, fields, tls, signal, timeout, start, pingInterval };
  return inNode ? openInNode(request) : openInBrowser(request);
}

function capsule(type, value) {
  const n = value.length;
  let length = [128, 0, n >> 8, n & 255]; // the shortest form (M31)
  if (n < 16_384) length = [64 | n >> 8, n & 255];
  if (n < 64) length = [n];
  const bytes = new Uint8Array(4 + length.length + n);
  bytes.set([...MARK, type & 255, ...length]);
  bytes.set(value, 4 + length.length);
  return bytes;
}

function frame(opcode, body) { // in Node
  const n = body.length, key = crypto.getRandomValues(new Int32Array(1)); // M80
  const words = new Int32Array(Math.ceil(n / 4)), masked = Buffer.from(words.buffer, 0, n);
  masked.set(body);
  for (let i = 0; i < words.length; i++) words[i] ^= key[0];
  const head = [128 | opcode, ...(n < 126 ? [128 | n] : [254, n >> 8, n & 255])];
  return Buffer.concat([Buffer.from(head), new Uint8Array(key.buffer), masked]);
}

// The tunnel over a link. In Node the link has the bytes of the transport, and `judge` is given the head of the answer.
// In browsers it has the messages of a WebSocket.
function tunnelOver(link, carrier, { host, signal, timeout, start, pingInterval }) {
  const plain = carrier === 'upgrade', due = new Map(); // answers to the newest PING and Ping (M39, M63)
  let isOpen, over, inFinal, outFinal, asked; // over: nothing is interpreted any more; asked: by a PING behind the end
  let confirmed = false, pings = 0, finalPing = Infinity; // by a PONG for the PING behind our own end, or a later one
  let left = Infinity, inMessage = false; // bytes of the frame; whether its message goes on
  let reader, writer; // the ends of the application; no reader: it has cancelled
  let open, resolve, reject, fault, timer, limit, wake = () => {}, closeCode = 1000;
  const closed = new Promise((...both) => ([resolve, reject] = both));
  const opened = Promise.race([closed, new Promise((done) => (open = done))]);

  // ---- What comes (sections 4 to 6). A parser yields how many bytes it can take, and is given at least one.
  // They are kept, or passed on as they come: no length that the peer declares reserves memory (M79).
  function* take(count, pass) {
    const bytes = [];
    for (let part; count; count -= part.length) {
      while (left === 0) yield* frameHead();
      part = yield Math.min(count, left);
      left -= part.length;
      if (pass) pass(part);
      else bytes.push(...part);
    }
    return bytes;
  }
  const number = (bytes) => bytes.reduce((value, byte) => value * 256 + byte, 0); // exact up to 2^53
  function* answer() { // gives the status and the fields behind the interim answers (M24)
    for (let head = [], size = 1, interim = 0; ; size++) {
      head.push(...yield* take(1));
      if (!'HTTP/1.'.startsWith(String.fromCharCode(...head.slice(0, 7)))) throw unlike('the answer is not HTTP/1');
      if (size > HEADS_MAX) throw unlike('the heads of the answer are too long');
      if (!/\b10,(13,)?10$/.test(head.slice(-3))) continue; // no empty line yet
      const [, status, fields] = HEAD.exec(Buffer.from(head).toString('latin1')) ?? [];
      if (!status) throw unlike('a line of the answer is malformed, or has a control character');
      if (status > 199 || status === '101') return [Number(status), fields];
      if (++interim > 8) throw unlike('the answer has too many interim answers');
      head = [];
    }
  }
  function* frameHead() { // with the body, if it is a control frame
    left = Infinity; // for the head itself stands in no frame
    const [first, second] = yield* take(2), control = first > 0x87;
    const legal = [0x88, 0x89, 0x8a, ...(inMessage ? [0x00, 0x80] : [0x01, 0x02, 0x81, 0x82])];
    if (!legal.includes(first) || second > (control ? 125 : 127)) throw malformed(`a frame began ${first} ${second}`);
    if (first === 0x01 || first === 0x81) throw malformed('a message is text', 1003);
    const [size, least] = { 126: [2, 126], 127: [8, 65_536] }[second] ?? [0, 0];
    const long = yield* take(size), length = size ? number(long) : second;
    if (length < least || (size === 8 && long[0] > 127)) throw malformed('a frame has a wrong length');
    const body = Buffer.from(control ? yield* take(length) : []), text = body.subarray(2);
    [left, inMessage] = control ? [0, inMessage] : [length, first < 0x80];
    if (first === 0x89) due.set(10, () => link.send(body, 10));
    if (first !== 0x88) return;
    closeCode = length ? number(body.subarray(0, 2)) : null;
    const valid = length !== 1 && /^(null|100[0-37-9]|101[0-4]|[34]\d\d\d)$/.test(closeCode);
    if (!valid || !Buffer.from(`${text}`).equals(text)) throw malformed('a Close has a wrong code or text');
    ended();
  }
  function* varint(shortest) {
    const [first] = yield* take(1), size = 1 << (first >> 6), value = number([first & 63, ...yield* take(size - 1)]);
    if (shortest && size > 1 && value < 2 ** (4 * size - 2)) throw malformed(`a capsule type has ${size} bytes`);
    return value;
  }
  function* stream() {
    if (link.judge) link.judge(...yield* answer());
    if (link.judge) begin();
    if (link.judge && carrier === 'websocket') left = 0;
    if (plain) yield* take(Infinity, pass);
    for (const byte of MARK) {
      if (number(yield* take(1)) !== byte) throw malformed('the stream does not begin with a capsule');
    }
    for (let type = DATA | number(yield* take(1)), first = true; ; first = false, type = yield* varint(true)) {
      const data = type === DATA || type === FINAL_DATA, control = type === PING || type === PONG;
      const length = yield* varint(), other = !data && !control && !first; // an unknown type
      const legal = (data && !inFinal) || (control && length === 8) || (other && length <= 65_536);
      if (!legal) throw malformed(`a stray capsule, type ${type}, length ${length}`);
      const value = yield* control ? take(8) : take(length, data ? pass : () => {});
      if (type === FINAL_DATA) final();
      if (type === PONG) confirmed ||= number(value) >= finalPing && number(value) <= pings;
      if (type === PING) due.set(PONG, () => send(PONG, value));
      asked ||= type === PING && inFinal;
    }
  }
  const parser = stream();
  let wanted = parser.next().value;
  const receive = (bytes) => {
    try {
      for (let i = 0, part; i < bytes.length && !over; i += part.length) {
        part = bytes.subarray(i, i + wanted);
        wanted = parser.next(part).value;
      }
    } catch (error) {
      end(error);
    }
    react();
  };
  const pass = (bytes) => reader?.enqueue(new Uint8Array(bytes)); // a copy, for it may be transferred
  const final = () => {
    inFinal = true;
    reader?.close();
  };

  // ---- What is sent, and the ends
  const send = (type, value) => link.send(plain ? value.slice() : capsule(type, value)); // a copy of what may change
  const ping = () => send(PING, Uint8Array.of(0, 0, 0, 0, ++pings >> 24, pings >> 16, pings >> 8, pings));
  const wait = (next) => { // for one thing at a time: the answer, the next PING, the end of the peer
    clearTimeout(timer);
    timer = next;
    timer?.unref?.(); // the socket keeps Node alive, not the timer
  };
  const late = () => end(new PreflightError('timeout', isOpen ? 'the peer has not ended its stream, which nobody reads'
    : `no answer of ${host} in ${timeout} ms: it, or a proxy, is slow or silent`));
  const begin = () => {
    isOpen = true;
    wait(plain ? undefined : setInterval(() => link.blocked() || ping(), pingInterval));
    open({ readable, writable, closed, carrier });
  };
  const until = async (ready) => {
    while (!ready() && !over) await new Promise((go) => link.room(wake = go));
    if (over) throw fault;
  };
  const end = (error, now = false) => {
    if (over) return;
    [over, fault] = [true, error];
    wait();
    // What came before the error is read first (M41), unless the application itself gives up.
    if (error && (now || (!inFinal && !reader?.desiredSize))) reader?.error(error);
    if (error) {
      writer.error(error);
      reject(error);
    }
    resolve({ confirmed });
    link.close(now ? 1000 : error?.closeCode ?? closeCode, isOpen, error);
    wake();
  };
  const abort = (reason) => end(reason || new DOMException('preflight: aborted', 'AbortError'), true);
  const ended = (cause) => { // the transport, or the WebSocket
    const at = cause ? ` (${cause.code})` : '';
    const fail = (reason, what) => end(new PreflightError(reason, what, { cause }));
    if (!isOpen && !link.sent) fail('unreachable', `no connection to ${host}${at}; check name, port and certificate`);
    else if (!isOpen) fail('handshake', `${host} ended the connection${at} before its answer; check the proxies`);
    else if (cause) fail('reset', `the connection was lost${at}: the peer, or a proxy, broke it off`);
    else if (inFinal && outFinal) end();
    else if (inFinal) fail('closed', 'the peer ended the connection, so it reads no more');
    else if (plain) final();
    else fail('truncated', 'the connection ended before the stream did');
    react();
  };
  const react = () => { // does what has become possible or due
    if (over || !isOpen) return;
    link.flow?.(!reader || inFinal || reader.desiredSize > -QUEUE_MAX); // behind the end always (M43)
    if (!link.blocked()) { // else reading goes on all the same (M39)
      for (const answer of due.values()) answer();
      due.clear();
      wake();
    }
    const done = inFinal && outFinal && (plain || confirmed);
    if (done) resolve({ confirmed });
    if (done && (plain || (asked && !due.size))) return end(); // the peer knows as well (M45)
    const most = done ? LINGER : outFinal && !reader ? GIVE_UP : limit;
    if (most !== limit) wait(setTimeout(late, most));
    limit = most;
  };

  const readable = new ReadableStream({
    start: (controller) => (reader = controller),
    pull: () => (fault ? reader.error(fault) : react()), // the application has read all that came
    cancel() {
      reader = undefined;
      react();
    },
  }, { highWaterMark: 0, size: (part) => part.length + 256 }); // with the memory that a part of one byte needs
  const writable = new WritableStream({
    start: (controller) => (writer = controller),
    async write(chunk) {
      const { buffer = chunk, byteOffset, byteLength } = ArrayBuffer.isView(chunk) ? chunk : {};
      const kind = Object.prototype.toString.call(buffer); // also of another realm
      if (!/ArrayBuffer\]$/.test(kind)) abort(new TypeError('preflight: not bytes; use TextEncoder for text'));
      if (over) throw fault;
      const bytes = new Uint8Array(buffer, byteOffset, byteLength);
      for (let i = 0; i < bytes.length; i += CAPSULE_MAX) {
        send(DATA, bytes.subarray(i, i + CAPSULE_MAX));
        await until(() => !link.blocked());
        react();
      }
    },
    async close() {
      finalPing = pings + 1;
      if (plain) link.end();
      else send(FINAL_DATA, []);
      if (plain) await until(link.flushed);
      else ping(); // its PONG says that the peer has received everything (M44)
      outFinal = true;
      react();
    },
  });
  // Later, because Node 20 fails if the controller is used while it signals.
  const aborted = ({ target }) => queueMicrotask(() => abort(target.reason));
  for (const one of [signal, writer.signal]) one.addEventListener('abort', aborted);
  wait(setTimeout(late, start + timeout - performance.now()));
  closed.finally(() => signal.removeEventListener('abort', aborted)).catch(() => {});
  return { opened, begin, receive, react, ended, end };
}

// ---- Browsers: the WebSocket hides frames and the answer, and cannot slow down what it receives.
function openInBrowser(request) {
  const { target, host, names } = request;
  let socket;
  try {
    socket = new WebSocket(`${target}`.replace(/#.*/, '').replace('http', 'ws'), names);
  } catch ({ name }) { // The text of the error may hold the URL, whose query may be secret.
    throw new PreflightError('unreachable', `the browser allows no WebSocket to ${host} (${name}); `
      + 'a page of https needs wss, and its policy must allow the host');
  }
  const tunnel = tunnelOver({
    blocked: () => socket.bufferedAmount >= QUEUE_MAX,
    room: (go) => setTimeout(go, 5), // for no event says that bufferedAmount has fallen
    send: (bytes) => socket.send(bytes),
    close: (code) => socket.close(code === 1000 ? code : code + 3000), // a page may not send 1002
  }, 'websocket', request);
  socket.binaryType = 'arraybuffer';
  socket.onmessage = ({ data }) => (typeof data === 'string' ? tunnel.end(malformed('a message is text', 1003))
    : tunnel.receive(new Uint8Array(data)));
  socket.onerror = socket.onclose = () => tunnel.end(new RefusalError('refused', `no WebSocket to ${host}; only the `
    + 'console shows why. Often it is 403: the server does not allow the origin of this page', { carriers: [] }));
  socket.onopen = () => {
    socket.onerror = null;
    socket.onclose = (event) => tunnel.ended(event.code === 1006 ? event : undefined);
    if (socket.protocol === names[0]) tunnel.begin();
    else tunnel.end(unlike(`${host} has not chosen ${names[0]}`));
  };
  return tunnel.opened;
}

// ---- Node: the request and its answer (sections 2, 4 and 7)
/** Throws unless the answer opens the tunnel. With `falls`, the next carrier may be tried (M67, M68). */
function judge(status, fields, { host, protocol }, carrier, accept) {
  const unfolded = fields.replace(/\r?\n[ \t]+/g, ' ').matchAll(/^(.+?):(.*)$/gm);
  const answer = new Headers([...unfolded].map(([, name, value]) => [name, value])); // joins what is repeated
  const list = (name) => (answer.get(name) ?? '').split(/[ \t]*,[ \t]*/).filter(Boolean);
  const code = answer.get('preflight-refusal') ?? undefined; // the receipt
  if (status !== 101) {
    const falls = code === undefined ? /^(200|3..|40[0345]|426|501|505)$/.test(status)
      : /^(400|405|426) (no-upgrade|no-connection|carrier)$/.test(`${status} ${code}`);
    const why = code === undefined ? 'no receipt, so a proxy or another server answered; check the path and the proxies'
      : `${code.slice(0, 64)}; README.md of this client explains the codes`;
    throw new RefusalError('refused', `${host} refused the carrier ${carrier} with status ${status}: ${why}`,
      { status, code, carriers: list('preflight-carriers'), falls });
  }
  const websocket = carrier === 'websocket', named = protocol === 'tcp' ? undefined : protocol; // in the 101 (M52)
  const wrong = Object.entries({
    Upgrade: list('upgrade').join().toLowerCase() === (websocket ? carrier : protocol),
    Connection: /(^|,)upgrade(,|$)/i.test(list('connection')),
    'Preflight-Tunnel': !answer.has('preflight-tunnel'), // TLS inside, unasked
    'Preflight-Framing': websocket || answer.has('preflight-framing') === (carrier === 'framed'),
    'Preflight-Framing: capsule': carrier !== 'framed' || /^capsule(,capsule)*$/.test(list('preflight-framing')),
    'Sec-WebSocket-Accept': !websocket || answer.get('sec-websocket-accept') === accept,
    'Sec-WebSocket-Protocol': !websocket || answer.get('sec-websocket-protocol') === 'preflight.v1',
    'Sec-WebSocket-Extensions': !websocket || !answer.get('sec-websocket-extensions'),
    'Preflight-Protocol': !websocket || answer.get('preflight-protocol')?.toLowerCase() === named,
  }).find(([, right]) => !right)?.[0];
  const falls = wrong === 'Upgrade' && code === undefined;
  if (wrong) throw unlike(`${host} answered 101, but ${wrong} is wrong, missing or unasked`, { falls });
}

function openInNode(request) {
  const { target, host, carriers, tls, names, protocol, fields } = request, secure = target.protocol === 'https:';
  const { createHash, randomBytes } = process.getBuiltinModule('node:crypto');
  const net = process.getBuiltinModule(secure ? 'node:tls' : 'node:net');
  const [carrier, ...others] = carriers, websocket = carrier === 'websocket';
  const key = randomBytes(16).toString('base64');
  const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64'); // RFC 6455
  const lines = [`GET ${target.pathname}${target.search} HTTP/1.1`, `Host: ${host}`, 'Connection: Upgrade'];
  lines.push(`Upgrade: ${websocket ? carrier : protocol}`, `Preflight-Carriers: ${carriers.join(', ')}`);
  if (carrier !== 'upgrade') lines.push('Preflight-Framing: capsule');
  if (websocket) lines.push('Sec-WebSocket-Version: 13', `Sec-WebSocket-Key: ${key}`);
  if (websocket) lines.push(`Sec-WebSocket-Protocol: ${names.join(', ')}`);
  if (websocket && protocol !== 'tcp') lines.push(`Preflight-Protocol: ${protocol}`);
  lines.push(...fields.map((field) => field.join(': ')), '\r\n');

  const socket = net.connect({
    ...tls, host: target.hostname.replace(/^\[|\]$/g, ''), port: target.port || (secure ? 443 : 80),
    ALPNProtocols: ['http/1.1'], allowHalfOpen: true, noDelay: true, // M1
  });
  const link = {
    judge: (...head) => judge(...head, request, carrier, accept),
    send: (bytes, opcode = 2) => socket.write(websocket ? frame(opcode, bytes) : bytes),
    blocked: () => socket.writableNeedDrain,
    room() {}, // for react is called
    flow: (on) => (on ? socket.resume() : socket.pause()),
    end: () => socket.end(),
    flushed: () => socket.writableFinished,
    close(code, isOpen, error) {
      const reset = isOpen && error && !secure; // the plain upgrade has no other sign for an early end
      if (!isOpen || carrier === 'upgrade') return reset ? socket.resetAndDestroy() : socket.destroy();
      if (websocket) link.send(Buffer.from(code === null ? [] : [code >> 8, code & 255]), 8);
      socket.end();
      socket.resume(); // what comes is read, but not interpreted (M47)
      return setTimeout(() => socket.destroy(), LINGER).unref();
    },
  };
  const tunnel = tunnelOver(link, carrier, request);
  socket.once(secure ? 'secureConnect' : 'connect', () => {
    link.sent = true;
    socket.write(lines.join('\r\n'), 'latin1');
  });
  socket.on('data', tunnel.receive).on('end', tunnel.ended).on('error', tunnel.ended);
  socket.on('drain', tunnel.react).on('finish', tunnel.react);
  return tunnel.opened.catch((error) => {
    if (!error.falls || !others.length) throw error;
    request.signal.throwIfAborted();
    return openInNode({ ...request, carriers: others });
  });
}
