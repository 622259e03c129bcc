// The carriers over a socket of Node: upgrade, framed, and websocket with its frames.
import { createHash, randomBytes } from 'node:crypto';
import net from 'node:net';
import tls from 'node:tls';
import {
  LINGER, PreflightError, RefusalError, decoder, later, malformed, number, take,
} from './tunnel.js';

const HEADS_MAX = 65_536; // bytes of all heads of an answer (M24)
const INTERIM_MAX = 8; // interim answers
const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const CAUSES = {
  'no-upgrade': 'a proxy on the way has removed the Upgrade field; use another carrier',
  'no-connection': 'a proxy on the way has removed Upgrade from Connection; use another carrier',
  carrier: 'the server does not serve this carrier; use one that it serves',
  protocol: 'the server does not serve this protocol; see the option protocol',
  origin: 'the server does not allow this Origin; do not send it, or have it allowed',
  authorize: 'the application has refused; check the credentials and the path',
  unavailable: 'the server is full or shutting down; try again later',
};

// ---- The answer (section 4)

const broken = (what, options) => new PreflightError('handshake', `${what}; check the host and the `
  + 'port, and the proxies on the way', options);

/** The first head in the text (bytes as latin1), with its length; null if it is incomplete. */
export function readHead(text) {
  if (!'HTTP/1.'.startsWith(text.slice(0, 7))) throw broken('the answer is not HTTP/1');
  const blank = /\r?\n\r?\n/.exec(text), end = blank?.index ?? -1;
  const length = blank ? end + blank[0].length : text.length;
  if (length > HEADS_MAX) throw broken('the head of the answer is too long');
  if (end < 0) return null;
  const [first, ...lines] = text.slice(0, end).split(/\r?\n/);
  const status = Number(/^HTTP\/1\.\d ([1-9]\d\d)(?: .*)?$/.exec(first)?.[1]);
  if (!status) throw broken('the status line of the answer is malformed');
  const fields = [];
  for (const line of lines) {
    const [, name, value] = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)$/.exec(line) ?? [];
    if (name) fields.push([name.toLowerCase(), value]);
    else if (/^[ \t]/.test(line) && fields.length) fields.at(-1)[1] += line; // folded
    else throw broken('a field line of the answer is malformed');
  }
  if (/[\x00-\x08\x0a-\x1f\x7f]/.test(first + lines.join(''))) {
    throw broken('the head of the answer has a control character');
  }
  const all = (name) => fields.filter((field) => field[0] === name).map((field) => field[1].trim());
  return { status, all, length };
}

/** Takes the bytes of an answer; gives its final head and what came behind, or null. */
export function answerReader() {
  let text = '', before = 0, interim = 0;
  return (bytes) => {
    text += Buffer.from(bytes).toString('latin1');
    for (let head; (head = readHead(text)); text = text.slice(head.length)) {
      before += head.length;
      if (before > HEADS_MAX) throw broken('the heads of the answer are too long');
      const rest = Buffer.from(text.slice(head.length), 'latin1');
      if (head.status === 101 || head.status > 199) return { head, rest };
      if (++interim > INTERIM_MAX) throw broken('the answer has too many interim answers');
    }
    return null;
  };
}

/** Undefined if the answer opens the tunnel; else the error, and whether the next one is tried. */
export function judge({ status, all }, { host, carrier, protocol, accept }) {
  const list = (name) => all(name).join().split(',').map((v) => v.trim()).filter(Boolean);
  const one = (name, value) => all(name).length === 1 && all(name)[0] === value;
  const receipted = all('preflight-refusal').length > 0, receipt = all('preflight-refusal').join();
  if (status !== 101) {
    const error = new RefusalError(`${host} refused the carrier ${carrier} with status ${status}: `
      + (receipted ? `${receipt.slice(0, 64)}: ${CAUSES[receipt] ?? 'see the log of the server'}`
        : 'no receipt, so a proxy or another server answered; check the path and the proxies'),
    { status, code: receipted ? receipt : undefined, carriers: list('preflight-carriers') });
    const codes = ['no-upgrade', 'no-connection', 'carrier'];
    const fall = receipted ? [400, 405, 426].includes(status) && codes.includes(receipt) // M67
      : [200, 400, 403, 404, 405, 426, 501, 505].includes(status) || (status > 299 && status < 400);
    return { error, fall };
  }
  const failed = (what, fall = false) => ({
    error: broken(`${host} answered 101, but ${what}`), fall,
  });
  const asked = carrier === 'websocket' ? 'websocket' : protocol;
  const tokens = list('upgrade').map((token) => token.toLowerCase());
  if (tokens.length !== 1 || tokens[0] !== asked) {
    return failed(`Upgrade does not name ${asked} alone`, !receipted);
  }
  if (!list('connection').some((name) => name.toLowerCase() === 'upgrade')) {
    return failed('Connection does not list upgrade');
  }
  if (all('preflight-tunnel').length) return failed('it begins TLS inside, unasked');
  const framing = list('preflight-framing');
  if (carrier === 'upgrade' && all('preflight-framing').length) return failed('it frames, unasked');
  if (carrier === 'framed' && !(framing.length && framing.every((name) => name === 'capsule'))) {
    return failed('it does not confirm the framing');
  }
  if (carrier !== 'websocket') return undefined;
  if (!one('sec-websocket-accept', accept)) return failed('Sec-WebSocket-Accept is wrong');
  if (!one('sec-websocket-protocol', 'preflight.v1')) return failed('the subprotocol is wrong');
  const extensions = all('sec-websocket-extensions');
  if (extensions.length > 1 || extensions[0]) return failed('it has an extension, unasked');
  const named = all('preflight-protocol').length > 0;
  if (protocol === 'tcp' ? named : all('preflight-protocol').join().toLowerCase() !== protocol) {
    return failed('Preflight-Protocol is not what was asked for');
  }
  return undefined;
}

// ---- Frames of WebSocket (section 6)

export function* frames(sink) {
  for (let inMessage = false; ;) {
    const [first, second] = yield* take(2);
    const opcode = first & 15, fin = first > 127, control = opcode > 7;
    if (first & 112 || opcode > 10 || (opcode > 2 && opcode < 8)) throw malformed('reserved bits');
    if (second > 127) throw malformed('a frame of the server is masked');
    if (control && (!fin || second > 125)) throw malformed('a long or cut control frame');
    if (!control && inMessage !== (opcode === 0)) throw malformed('a fragment has no place');
    if (opcode === 1) throw malformed('a message is text', 1003);
    if (!control) inMessage = !fin;
    const form = { 126: 2, 127: 8 }[second] ?? 0;
    const bytes = yield* take(form), length = form ? number(bytes) : second;
    if (form && (length < (form === 2 ? 126 : 65_536) || (form === 8 && bytes[0] > 127))) {
      throw malformed('the length of a frame is not in its shortest form');
    }
    if (!control && length) yield [length, sink.data];
    const body = control ? yield* take(length) : [];
    if (opcode === 9) sink.ping(body);
    if (opcode === 8) {
      sink.close(closeCode(body));
      return; // nothing is read behind a Close
    }
  }
}

function closeCode(body) {
  if (body.length === 0) return null;
  const code = number(body.slice(0, 2));
  const legal = (code > 999 && code < 1015 && ![1004, 1005, 1006].includes(code))
    || (code > 2999 && code < 5000);
  if (body.length === 1 || !legal) throw malformed('a Close has a code that may not be sent');
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(body.slice(2)));
  } catch {
    throw malformed('the reason of a Close is not UTF-8');
  }
  return code;
}

function frame(opcode, payload) {
  const n = payload.length, mask = crypto.getRandomValues(new Uint8Array(4)); // M80
  const head = [128 | opcode, ...(n < 126 ? [128 | n] : [254, n >> 8, n & 255]), ...mask];
  const bytes = new Uint8Array(head.length + n);
  bytes.set(head);
  for (let i = 0; i < n; i++) bytes[head.length + i] = payload[i] ^ mask[i & 3];
  return bytes;
}

// ---- The socket as a link of the tunnel

export function socketLink(socket, carrier, rest) {
  const websocket = carrier === 'websocket';
  let closeSent = false, pong = null;
  const write = (opcode, bytes) => {
    if (!closeSent) socket.write(websocket ? frame(opcode, bytes) : bytes);
  };
  const sendClose = (code) => {
    write(8, code === null ? [] : [code >> 8, code & 255]);
    closeSent = true;
  };
  const sendPong = () => {
    if (!pong || socket.writableNeedDrain) return;
    write(10, pong); // the newest is enough (M63)
    pong = null;
  };
  return {
    get blocked() { return socket.writableNeedDrain; },
    send: (bytes) => write(2, bytes),
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    end: () => new Promise((resolve, reject) => {
      socket.end((error) => (error ? reject(error) : resolve()));
    }),
    close(code) {
      // The plain upgrade has no other sign for an early end than a reset.
      if (carrier === 'upgrade' && socket.encrypted) return socket.destroy();
      if (carrier === 'upgrade') return socket.resetAndDestroy();
      if (websocket) sendClose(code);
      socket.end();
      socket.resume(); // what comes is read, but not interpreted (M47)
      const timer = later(LINGER, () => socket.destroy());
      socket.once('close', () => clearTimeout(timer));
    },
    attach(tunnel) {
      const parse = websocket && decoder(frames({
        data: tunnel.receive,
        ping: (body) => { pong = body; sendPong(); },
        close: (code) => { sendClose(code); tunnel.ended(); },
      }));
      const receive = (bytes) => {
        if (tunnel.over) return;
        try {
          if (websocket) parse(bytes);
          else tunnel.receive(bytes);
        } catch (error) {
          tunnel.fail(error);
        }
      };
      socket.on('data', receive).on('end', () => tunnel.ended()).on('drain', () => {
        sendPong();
        tunnel.drained();
      }).on('error', (cause) => tunnel.ended(new PreflightError('reset',
        `the connection was lost (${cause.code}): the peer, or a proxy, broke it off`, { cause })));
      if (rest.length) receive(rest); // came together with the head (M6)
      if (!tunnel.full) socket.resume();
    },
  };
}

// ---- The request, and the choice of a carrier (sections 2 and 7)

function requestHead({ host, path }, { carriers, protocols, protocol, fields }, key) {
  const [carrier] = carriers, websocket = carrier === 'websocket';
  const own = [
    ['Host', host],
    ['Connection', 'Upgrade'],
    ['Upgrade', websocket ? 'websocket' : protocol],
    ['Preflight-Carriers', carriers.join(', ')],
  ];
  if (carrier !== 'upgrade') own.push(['Preflight-Framing', 'capsule']);
  if (websocket) {
    own.push(['Sec-WebSocket-Version', '13'], ['Sec-WebSocket-Key', key],
      ['Sec-WebSocket-Protocol', ['preflight.v1', ...protocols].join(', ')]);
    if (protocol !== 'tcp') own.push(['Preflight-Protocol', protocol]);
  }
  const lines = [...own, ...fields].map(([name, value]) => `${name}: ${value}\r\n`);
  return `GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`;
}

function exchange(socket, event, request, { host }, signal) {
  return new Promise((resolve, reject) => {
    const read = answerReader();
    let sent = false;
    const stop = () => {
      signal.removeEventListener('abort', aborted);
      socket.off('data', data).off('end', ended).off('error', broke).on('error', () => {}).pause();
    };
    const fail = (error) => {
      stop();
      socket.destroy();
      reject(error);
    };
    const aborted = () => fail(signal.reason);
    const ended = () => fail(broken(`${host} ended the connection before its answer was complete`));
    const data = (bytes) => {
      try {
        const answer = read(bytes);
        if (!answer) return;
        stop();
        resolve(answer);
      } catch (error) {
        fail(error);
      }
    };
    const broke = (cause) => fail(sent
      ? broken(`${host} broke the connection off (${cause.code}) before its answer`, { cause })
      : new PreflightError('unreachable', `no connection to ${host} (${cause.code}); check name, `
        + 'the port and the certificate', { cause }));
    socket.once(event, () => {
      sent = true;
      socket.write(request, 'latin1');
    });
    socket.on('data', data).on('end', ended).on('error', broke);
    signal.addEventListener('abort', aborted);
    if (signal.aborted) aborted();
  });
}

export async function open(target, request, signal) {
  const { hostname, port, secure } = target;
  for (let { carriers } = request; ; carriers = carriers.slice(1)) {
    const [carrier] = carriers, key = randomBytes(16).toString('base64');
    const accept = createHash('sha1').update(key + GUID).digest('base64');
    const options = { host: hostname, port, allowHalfOpen: true, noDelay: true };
    const socket = secure ? tls.connect({ ...request.tls, ...options, ALPNProtocols: ['http/1.1'] })
      : net.connect(options);
    const { head, rest } = await exchange(socket, secure ? 'secureConnect' : 'connect',
      requestHead(target, { ...request, carriers }, key), target, signal);
    const verdict = judge(head, { host: target.host, carrier, protocol: request.protocol, accept });
    if (!verdict) return { carrier, link: socketLink(socket, carrier, rest) };
    socket.destroy();
    if (!verdict.fall || carriers.length === 1) throw verdict.error;
  }
}
