// Reads the vectors of ../../../spec/vectors; their README says what the keys mean.
import fs from 'node:fs';

const root = new URL('../../../spec/vectors/', import.meta.url);

export function vectors(folder) {
  return fs.readdirSync(new URL(folder, root)).map((name) => {
    const file = fs.readFileSync(new URL(`${folder}/${name}`, root));
    const end = file.indexOf('\n\n');
    const keys = file.subarray(0, end).toString().split('\n').map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon), line.slice(colon + 1).trim()];
    });
    return { ...Object.fromEntries(keys), bytes: file.subarray(end + 2) };
  });
}

/** The ways in which the bytes of a vector arrive: whole, by one byte, and cut at each place. */
export function* chunkings({ bytes, chunks }) {
  yield [bytes];
  if (chunks !== 'each-byte') return;
  yield Array.from(bytes, (byte) => Uint8Array.of(byte));
  for (let at = 1; at < bytes.length; at++) yield [bytes.subarray(0, at), bytes.subarray(at)];
}
