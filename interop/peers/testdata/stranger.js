// A client of a PreflightListener with WebSocket. It sends its standard input, ends its
// direction, and prints what it receives. Run: node stranger.js ws://127.0.0.1:9007/path
const { WebSocket } = require('ws');
const DATA = 0x2d70f100, FINAL_DATA = 0x2d70f101, PING = 0x2d70f104, PONG = 0x2d70f105;

const number = (n) => Buffer.from([0x80 | (n >>> 24), n >>> 16, n >>> 8, n]); // a varint of 4 bytes
const capsule = (type, value) => Buffer.concat([number(type), number(value.length), value]);

const ws = new WebSocket(process.argv[2], 'preflight.v1');
ws.on('open', () => {
  process.stdin.on('data', (bytes) => ws.send(capsule(DATA, bytes)));
  process.stdin.on('end', () => ws.send(capsule(FINAL_DATA, Buffer.alloc(0))));
});

function varint(b, at) { // returns the value and the index of the next byte
  const end = at + (1 << (b[at] >> 6));
  if (!(end <= b.length)) return [0, Infinity];
  let value = b[at] & 0x3f;
  while (++at < end) value = value * 256 + b[at];
  return [value, end];
}
let received = Buffer.alloc(0), final = false;
ws.on('message', (bytes) => {
  received = Buffer.concat([received, bytes]);
  for (;;) {
    const [type, afterType] = varint(received, 0);
    const [length, start] = varint(received, afterType);
    if (!(start + length <= received.length)) return;
    const value = received.subarray(start, start + length);
    if (type === DATA || type === FINAL_DATA) process.stdout.write(value);
    if (type === FINAL_DATA) final = true;
    if (type === PING) ws.send(capsule(PONG, value));
    received = received.subarray(start + length);
  }
});
ws.on('close', (code) => { process.exitCode = final ? 0 : (console.error('cut off:', code), 1); });
ws.on('error', (error) => console.error(error.message));
