// A client of spec/preflight.md for browsers and Node.
import { open as openInBrowser } from './browser.js';
import { PreflightError, RefusalError, Tunnel } from './tunnel.js';

export { PreflightError, RefusalError };

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
// The exchange sets these itself, or must not have them (M2, M4).
const RESERVED = new RegExp('^(preflight-.*|sec-websocket-.*|host|connection|upgrade|content-length'
  + '|transfer-encoding|trailer|expect)$', 'i');

export async function connect(url, options = {}) {
  const { signal, timeout = 30_000, pingInterval = 20_000 } = options;
  const inNode = globalThis.process?.versions?.node !== undefined;
  signal?.throwIfAborted();
  const target = parse(url), request = check(options, inNode);
  milliseconds({ timeout, pingInterval });
  const open = inNode ? await load('./node.js') : openInBrowser;
  const stop = new AbortController();
  const abort = () => stop.abort(signal.reason);
  signal?.addEventListener('abort', abort);
  if (signal?.aborted) abort();
  const timer = setTimeout(() => stop.abort(new PreflightError('timeout',
    `no answer of ${target.host} in ${timeout} ms: it, or a proxy, is slow or silent`)), timeout);
  const forget = () => signal?.removeEventListener('abort', abort);
  try {
    const { link, carrier } = await open(target, request, stop.signal);
    const { readable, writable, closed } = new Tunnel(link, carrier, stop.signal, pingInterval);
    closed.then(forget, forget);
    return { readable, writable, closed, carrier };
  } catch (error) {
    forget();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

// A name in a variable keeps bundlers for browsers from following the import.
const load = async (name) => (await import(/* webpackIgnore: true */ /* @vite-ignore */ name)).open;

function parse(url) {
  let parsed; // The scheme decides how a URL is parsed, so it becomes one that URL knows.
  try {
    parsed = new URL(String(url).replace(/^(?:ws|tcp)(s?):/i, 'http$1:'));
  } catch { /* The error would hold the URL, whose query may be secret. */ }
  if (!/^https?:$/.test(parsed?.protocol)) {
    throw new TypeError('preflight: the URL does not begin with ws, wss, http, https, tcp or tcps');
  }
  if (parsed.username || parsed.password) {
    throw new TypeError('preflight: the URL holds credentials; send them in headers or protocols');
  }
  const { host, hostname, pathname, search } = parsed, secure = parsed.protocol === 'https:';
  const port = Number(parsed.port) || (secure ? 443 : 80), path = pathname + search;
  return { secure, host, hostname: hostname.replace(/^\[|\]$/g, ''), port, path };
}

function check(options, inNode) {
  const { carriers = inNode ? ['upgrade', 'websocket'] : ['websocket'] } = options;
  const { protocols = [], protocol = 'tcp', headers = {}, tls = {} } = options;
  const known = [...new Set(carriers)];
  if (!known.length || known.some((name) => !['upgrade', 'framed', 'websocket'].includes(name))) {
    throw new TypeError('preflight: carriers is a list of upgrade, framed and websocket');
  }
  const possible = known.filter((name) => inNode || name === 'websocket');
  if (!possible.length) throw new TypeError('preflight: browsers have the carrier websocket alone');
  if (new Set(protocols).size < protocols.length || protocols.includes('preflight.v1')
    || !protocols.every((name) => TOKEN.test(name))) {
    throw new TypeError('preflight: each of protocols is a token, once, beside preflight.v1');
  }
  if (!/^[a-z0-9!#$%&'*+.^_`|~-]+$/.test(protocol) || protocol === 'websocket') {
    throw new TypeError('preflight: protocol is one token in lower case, such as tcp');
  }
  const fields = [...(headers[Symbol.iterator] ? headers : Object.entries(headers))];
  for (const [name, value] of fields) {
    if (!TOKEN.test(name) || RESERVED.test(name)) {
      throw new TypeError(`preflight: the header ${JSON.stringify(name)} cannot be set`);
    }
    if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) {
      throw new TypeError(`preflight: the value of the header ${name} has a control character`);
    }
  }
  if (!inNode && (fields.length || protocol !== 'tcp')) {
    throw new TypeError('preflight: browsers cannot send headers or another protocol than tcp; '
      + 'put a credential into protocols');
  }
  return { carriers: possible, protocols, protocol, fields, tls };
}

function milliseconds(options) {
  for (const [name, value] of Object.entries(options)) {
    if (!(value >= 1 && value < 2 ** 31)) {
      throw new RangeError(`preflight: ${name} is a number of milliseconds from 1 to 2^31`);
    }
  }
}
