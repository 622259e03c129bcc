export type Carrier = 'upgrade' | 'framed' | 'websocket';

export interface ConnectOptions {
  /** Tried in this order. In Node: upgrade, websocket. Browsers have websocket alone. */
  carriers?: Carrier[];
  /** Further WebSocket subprotocols, such as a credential. Other carriers do not send them. */
  protocols?: string[];
  /** What the application speaks: name or name/version, in lower case. Default: tcp. Node only. */
  protocol?: string;
  /** Fields of the request. Node only. */
  headers?: Record<string, string> | Iterable<[string, string]>;
  /** Options of tls.connect, such as ca, cert and key. Node only. */
  tls?: object;
  /** Aborts the attempt, and later the tunnel. */
  signal?: AbortSignal;
  /** Milliseconds for the connection and the answer, on all carriers together. Default: 30000. */
  timeout?: number;
  /** Milliseconds between two PINGs, so that a proxy never sees a longer silence. Default: 20000. */
  pingInterval?: number;
}

export interface Tunnel {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array | ArrayBufferView | ArrayBuffer>;
  /**
   * Resolves when both directions have ended. `confirmed`: the peer has said that it has received
   * everything; the carrier upgrade cannot say so. Rejects with the error otherwise.
   */
  readonly closed: Promise<{ confirmed: boolean }>;
  readonly carrier: Carrier;
}

export class PreflightError extends Error {
  readonly reason: 'unreachable' | 'timeout' | 'handshake' | 'refused' | 'malformed' | 'truncated'
    | 'reset' | 'closed';
  /** With malformed: the code of the Close that was sent. */
  readonly closeCode?: number;
  /** With refused and handshake: whether this answer leads to the next carrier, if there is one. */
  readonly falls?: boolean;
}

export class RefusalError extends PreflightError {
  readonly reason: 'refused';
  /** The status of the answer; undefined in browsers. */
  readonly status?: number;
  /** The receipt of the server; undefined if somebody else answered, and in browsers. */
  readonly code?: string;
  /** What the server serves, as far as it said so. */
  readonly carriers: string[];
}

/** Opens a tunnel. The URL has one of the schemes ws, wss, http, https, tcp and tcps. */
export function connect(url: string | URL, options?: ConnectOptions): Promise<Tunnel>;
