// Why a link ended, and the errors of the calls that end with it.

import { ConnectionLostError, NotGrantedError, type YueError } from './errors.js';

export interface Reason {
  /** `handshake`: it took too long, or a callback of this side failed or refused. */
  kind: 'local' | 'peer' | 'lost' | 'refused' | 'protocol' | 'handshake';
  text: string;
}

/** The error of a call that was written. */
export function lost_call(reason: Reason, retryable = false): YueError {
  return new ConnectionLostError(`the connection was lost before the answer came: ${reason.text}`, { retryable });
}

/** The error of a call that was still held. */
export function unsent_call(reason: Reason): YueError {
  switch (reason.kind) {
    case 'refused':
      return new NotGrantedError(reason.text, { retryable: true });
    case 'handshake':
      return new NotGrantedError(`the connection was not granted: ${reason.text}`, { retryable: true });
    case 'protocol':
      return new ConnectionLostError(`the peer does not speak msgpack-rpc: ${reason.text}`, { retryable: true });
    default:
      return lost_call(reason, true);
  }
}

/** Each call gets an error of its own. */
export function copy_of(error: YueError): YueError {
  const type = error.constructor as new (msg: string, details: object) => YueError;
  return new type(error.msg, { retryable: error.retryable });
}

/** The beginning of what a peer sent instead of a message, in printable characters. */
export function shown(bytes: Uint8Array): string {
  return [...bytes.subarray(0, 40)].map((byte) =>
    byte >= 32 && byte < 127 ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`).join('');
}
