// The WebSocket of a browser as a link of the tunnel. A page sees neither frames nor the head of
// the answer, and cannot slow down what it receives.
import { PreflightError, QUEUE_MAX, RefusalError, malformed } from './tunnel.js';

const SUBPROTOCOL = 'preflight.v1';
const OPEN = 1; // readyState

function socketLink(socket) {
  let polling = false; // for no event says that bufferedAmount has fallen
  const poll = () => {
    polling = link.blocked;
    if (polling) setTimeout(poll, 5);
    else link.tunnel.drained();
  };
  const link = {
    // Behind the end bufferedAmount does not fall any more.
    get blocked() { return socket.readyState === OPEN && socket.bufferedAmount >= QUEUE_MAX; },
    send(bytes) {
      socket.send(bytes);
      if (link.blocked && !polling) poll();
    },
    pause() {},
    resume() {},
    // A page may send 1000 and 3000 to 4999 alone: 1002 becomes 4002.
    close: (code) => socket.close(code === 1000 ? code : code + 3000),
    attach(tunnel) {
      link.tunnel = tunnel;
      socket.onmessage = ({ data }) => {
        try {
          if (typeof data === 'string') throw malformed('a message is text', 1003);
          tunnel.receive(new Uint8Array(data));
        } catch (error) {
          tunnel.fail(error);
        }
      };
      socket.onclose = ({ code }) => tunnel.ended(code === 1006 ? new PreflightError('reset',
        'the connection was lost; a browser does not tell how') : undefined);
    },
  };
  return link;
}

export function open({ secure, host, path }, { protocols }, signal) {
  return new Promise((resolve, reject) => {
    let socket;
    try {
      const url = `${secure ? 'wss' : 'ws'}://${host}${path}`;
      socket = new WebSocket(url, [SUBPROTOCOL, ...protocols]);
    } catch (error) { // Its text may hold the URL, whose query may be secret.
      throw new PreflightError('unreachable', `the browser allows no WebSocket to ${host} `
        + `(${error.name}); a page of https needs wss, and its policy must allow the host`);
    }
    socket.binaryType = 'arraybuffer';
    const abort = () => {
      reject(signal.reason);
      socket.close();
    };
    signal.addEventListener('abort', abort);
    socket.onerror = socket.onclose = () => reject(new RefusalError(`no WebSocket to ${host}; `
      + 'browsers hide why. The console shows the status (403: the server does not allow '
      + 'the origin of this page), or an error of TLS, the network or a proxy'));
    socket.onopen = () => {
      signal.removeEventListener('abort', abort);
      if (socket.protocol === SUBPROTOCOL) {
        return resolve({ link: socketLink(socket), carrier: 'websocket' });
      }
      reject(new PreflightError('handshake', `${host} has not chosen ${SUBPROTOCOL}`));
      return socket.close();
    };
    if (signal.aborted) abort();
  });
}
