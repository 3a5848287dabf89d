// ws:// and wss://, by the WebSocket of the browser or of another package.

import { AddressError, ConnectionRefusedError } from './errors.js';
import type { Connect, Link, LinkEvents } from './transport.js';

/** The part of a WebSocket that is used here. */
export interface Socket {
  binaryType: string;
  readonly bufferedAmount: number;
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
}

const OPEN = 1;

/** Programs may send 1000 and 4000 to 4999. */
const ORDINARY = 1000;
const FAULT = 4002;

/** The bytes of a reason in a close frame. */
const REASON_BYTES = 123;

function cut(reason: string): string {
  let text = reason.slice(0, REASON_BYTES);
  while (new TextEncoder().encode(text).length > REASON_BYTES) text = text.slice(0, -1);
  return text;
}

/** Makes links by sockets that `create` makes. */
export function websocket(create: (address: string, protocol: string) => Socket): Connect {
  return (address: string, events: LinkEvents): Link => {
    let socket: Socket;
    try {
      socket = create(address, 'msgpack-rpc');
    } catch (error) {
      throw new AddressError(`cannot connect to ${address}: ${(error as Error).message}`);
    }
    socket.binaryType = 'arraybuffer';
    let opened = false;
    let detail = '';
    socket.onopen = () => {
      opened = true;
      events.opened();
    };
    socket.onmessage = ({ data }) => {
      if (typeof data !== 'string') return events.data(new Uint8Array(data as ArrayBuffer));
      // Only binary frames carry messages. The bytes of a text end the connection, and are in the reason.
      events.data(new TextEncoder().encode(data || ' '));
    };
    socket.onerror = (event) => {
      detail = typeof event?.message === 'string' ? event.message : detail;
    };
    socket.onclose = ({ reason, code }) => {
      if (!opened) {
        const why = detail || 'no server listens there, it has another path, or it does not allow this origin';
        const text = `cannot connect to ${address}: ${why}`;
        return events.closed(text, new ConnectionRefusedError(text, { retryable: true }));
      }
      const text = reason ? `closed by the peer: ${reason}` : 'closed by the peer';
      events.closed(code === 1006 ? `the link broke${detail && `: ${detail}`}` : text);
    };
    return {
      send: (bytes) => {
        if (socket.readyState === OPEN) socket.send(bytes);
      },
      buffered: () => socket.bufferedAmount,
      end: (reason, fault) => socket.close(fault ? FAULT : ORDINARY, cut(reason)),
    };
  };
}
