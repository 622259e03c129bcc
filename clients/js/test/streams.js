/** Reads up to `count` bytes, or to the end: { bytes, error, done }. */
export async function read(reader, count = Infinity) {
  const parts = [];
  let size = 0;
  try {
    while (size < count) {
      const { value, done } = await reader.read();
      if (done) return { bytes: Buffer.concat(parts), done };
      parts.push(value);
      size += value.length;
    }
    return { bytes: Buffer.concat(parts) };
  } catch (error) {
    return { bytes: Buffer.concat(parts), error };
  }
}
