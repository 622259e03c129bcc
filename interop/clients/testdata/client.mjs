// Does one job with the JavaScript client, see job in clients_test.go, and prints its outcome.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect } from '../../../clients/js/preflight.js';

const job = JSON.parse(process.argv[2]);
const outcome = { carrier: '', end: 'clean', status: 0, code: '', bytes: 0 };
const sent = createHash('sha256'), received = createHash('sha256');

async function write(writer) {
  const block = new Uint8Array(job.block);
  for (let i = 0; i * job.block < job.size; i++) {
    block.fill(i); // no two of 256 blocks are the same
    sent.update(block);
    await writer.write(block);
  }
  if (job.order !== 'echo') await writer.close();
}

async function read(reader, writer) {
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    received.update(value);
    outcome.bytes += value.length;
    if (job.order === 'echo' && outcome.bytes === job.size) await writer.close();
  }
}

try {
  const tunnel = await connect(job.url, {
    ...(job.carriers && { carriers: job.carriers }),
    headers: job.headers ?? {},
    tls: job.ca ? { ca: readFileSync(job.ca) } : {},
  });
  outcome.carrier = tunnel.carrier;
  tunnel.closed.catch(() => {});
  const writer = tunnel.writable.getWriter(), reader = tunnel.readable.getReader();
  if (job.order === 'read first') {
    await read(reader);
    await write(writer);
  } else {
    await Promise.all([write(writer), read(reader, writer)]);
  }
  await tunnel.closed;
} catch (error) {
  if (error.reason === undefined) throw error;
  outcome.end = error.reason;
  outcome.status = error.status ?? 0;
  outcome.code = error.code ?? '';
}
console.log(JSON.stringify({ ...outcome, sent: sent.digest('hex'), received: received.digest('hex') }));
