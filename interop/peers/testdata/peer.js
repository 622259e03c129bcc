// One side of the tunnels of these tests, with ws of Node.js. The arguments are "client URL" or
// "server". The path of the URL contains the mode. At the end of each tunnel, the program prints
// a report as a line of JSON. In the mode late, it begins to read when a line arrives on the
// standard input.
const { WebSocket, WebSocketServer } = require('ws');
const crypto = require('crypto');
const DATA = 0x2d70f100, FINAL_DATA = 0x2d70f101, PING = 0x2d70f104, PONG = 0x2d70f105;

// A length may have any form. This function never uses the shortest one.
const capsule = (type, value) => {
  const header = Buffer.alloc(12);
  header.writeUInt32BE(0x80000000 + type);
  header.writeUInt32BE(0xc0000000, 4);
  header.writeUInt32BE(value.length, 8);
  return Buffer.concat([header, value]);
};

function varint(b, at) { // returns the value and the index of the next byte
  const end = at + (1 << (b[at] >> 6));
  if (!(end <= b.length)) return [0, Infinity];
  let value = b[at] & 0x3f;
  while (++at < end) value = value * 256 + b[at];
  return [value, end];
}

// send splits bytes into messages, and messages into fragments. The boundaries can be anywhere.
const cuts = [0, 1, 7, 125, 126, 127, 3000, 65535, 65536, 70000];
function send(ws, bytes) {
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const message = bytes.subarray(at, at + cuts[i % cuts.length]);
    at += message.length;
    const third = Math.ceil(message.length / 3);
    ws.send(message.subarray(0, third), { binary: true, fin: false });
    ws.send(message.subarray(third, 2 * third), { fin: false });
    ws.send(message.subarray(2 * third), { fin: true });
  }
}

const whole = (bytes) => {
  const capsules = [];
  for (let at = 0, n = 1; at < bytes.length; at += n, n = (n * 7) % 50021) capsules.push(capsule(DATA, bytes.subarray(at, at + n)));
  return Buffer.concat([...capsules, capsule(FINAL_DATA, Buffer.alloc(0)), capsule(PING, Buffer.alloc(8))]);
};

const gate = new Promise((open) => process.stdin.once('data', open));

function talk(ws, mode) {
  const report = { bytes: 0, sha256: '', final: false, pings: 0, pongs: 0, rfcPongs: 0, close: 0 };
  const hash = crypto.createHash('sha256');
  const end = () => ws.send(capsule(FINAL_DATA, Buffer.alloc(0)));
  const kept = [];
  let rest = Buffer.alloc(0), asked = false;

  const data = (value) => {
    report.bytes += value.length;
    hash.update(value);
    if (mode === 'echo' && value.length) send(ws, capsule(DATA, value));
    if (mode === 'reply') kept.push(value);
    if (mode.startsWith('close/') && value.length) ws.close(...(mode === 'close/1005' ? [] : [Number(mode.slice(6)), 'bye']));
    if (mode === 'drop' && value.length) ws.terminate();
    if (mode === 'text' && value.length) ws.send('text');
    if (mode === 'end-and-close' && value.length) { end(); ws.close(1000); }
  };
  const final = () => {
    report.final = true;
    if (mode === 'echo' || mode === 'late') end();
    if (mode === 'reply') send(ws, whole(Buffer.concat(kept)));
  };
  const ping = (value) => {
    report.pings++;
    ws.send(capsule(PONG, value));
    if (mode !== 'pings' || report.pings < 20 || asked) return;
    asked = true;
    ws.ping('rfc');
    ws.send(capsule(PING, Buffer.from('capsules')));
  };
  const answered = () => {
    if (mode === 'pings' && report.pongs === 1 && report.rfcPongs === 1) end();
  };

  ws.on('message', (bytes, binary) => {
    if (!binary) throw new Error('text');
    rest = Buffer.concat([rest, bytes]);
    for (;;) {
      const [type, afterType] = varint(rest, 0);
      const [length, start] = varint(rest, afterType);
      if (!(start + length <= rest.length)) return;
      const value = rest.subarray(start, start + length);
      rest = rest.subarray(start + length);
      if (type === DATA || type === FINAL_DATA) data(value);
      if (type === FINAL_DATA) final();
      if (type === PING) ping(value);
      if (type === PONG) { report.pongs++; answered(); }
    }
  });
  ws.on('pong', (value) => {
    if (value.toString() === 'rfc') report.rfcPongs++;
    answered();
  });
  ws.on('error', () => {}); // the close code shows errors, too
  ws.on('close', (code) => {
    report.close = code;
    report.sha256 = hash.digest('hex');
    console.log(JSON.stringify(report));
  });

  if (mode === 'source') send(ws, whole(crypto.createHash('shake256', { outputLength: 1 << 20 }).digest()));
  if (mode === 'late') {
    ws.pause();
    gate.then(() => ws.resume());
  }
}

if (process.argv[2] === 'server') {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: true });
  server.on('listening', () => console.log(JSON.stringify({ port: server.address().port })));
  server.on('connection', (ws, request) => talk(ws, request.url.slice(1)));
  process.stdin.on('end', () => process.exit());
} else {
  const url = process.argv[3];
  // These tests do not test the certificate.
  const ws = new WebSocket(url, 'preflight.v1', { rejectUnauthorized: false });
  ws.on('open', () => talk(ws, new URL(url).pathname.replace('/client', '').slice(1)));
  ws.on('error', (error) => console.error(error.message));
  ws.on('close', () => process.stdin.destroy());
}
