// tcp://, tls:// and unix://, by Node.js's sockets.

import { readFileSync } from 'node:fs';
import * as net from 'node:net';
import * as node_tls from 'node:tls';
import {
  AddressError, ConnectionRefusedError, ConnectionTimeoutError, NetworkUnreachableError, TLSError, TransportError,
  type YueError,
} from './errors.js';
import type { Options } from './options.js';
import type { Connect, Link, LinkEvents } from './transport.js';

/** The time that a closing link has to send what was written. */
const DRAIN_MS = 1000;

interface Place {
  host: string;
  port: number;
}

function place(address: string): Place {
  let url: URL | undefined;
  try {
    url = new URL(address);
  } catch {
    // Reported below.
  }
  const port = Number(url?.port);
  if (!url || url.hostname === '' || !(port > 0)) {
    throw new AddressError(`'${address}' is not an address: it needs a host and a port, such as tcp://127.0.0.1:8080`);
  }
  return { host: url.hostname.replace(/^\[|\]$/g, ''), port };
}

function connect_error(address: string, error: NodeJS.ErrnoException): YueError {
  const text = `cannot connect to ${address}: ${error.message || error.code}`;
  const details = { retryable: true };
  switch (error.code) {
    case 'ECONNREFUSED':
    case 'ENOENT':
      return new ConnectionRefusedError(text, details);
    case 'ENETUNREACH':
    case 'EHOSTUNREACH':
      return new NetworkUnreachableError(text, details);
    case 'ETIMEDOUT':
      return new ConnectionTimeoutError(text, details);
  }
  const of_tls = /^(ERR_SSL|ERR_TLS|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO)/.test(error.code ?? '');
  return of_tls ? new TLSError(text) : new TransportError(text, details);
}

function link(address: string, socket: net.Socket, ready: string, events: LinkEvents): Link {
  let opened = false;
  let failure: NodeJS.ErrnoException | undefined;
  socket.setNoDelay(true);
  socket.once(ready, () => {
    opened = true;
    events.opened();
  });
  socket.on('data', (bytes) => events.data(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length)));
  socket.on('error', (error) => {
    failure = error;
  });
  socket.on('end', () => socket.end());
  socket.on('close', () => {
    if (!opened) {
      const error = connect_error(address, failure ?? new Error('the server closed the connection at once'));
      return events.closed(error.msg, error);
    }
    events.closed(failure ? `the link broke: ${failure.message}` : 'closed by the peer');
  });
  return {
    send: (bytes) => void socket.write(bytes),
    buffered: () => socket.writableLength,
    end: () => {
      socket.end();
      const timer = setTimeout(() => socket.destroy(), DRAIN_MS);
      socket.once('close', () => clearTimeout(timer));
    },
  };
}

export const tcp: Connect = (address, events) => link(address, net.connect(place(address)), 'connect', events);

export const unix: Connect = (address, events) => {
  const path = address.slice('unix://'.length);
  if (!path.startsWith('/')) throw new AddressError(`'${address}' is not an address: unix:// needs an absolute path`);
  return link(address, net.connect({ path }), 'connect', events);
};

/** A PEM text, or the name of a file that has one. */
function pem(name: 'ca' | 'cert' | 'key', options: Options): string | undefined {
  const given = options[name];
  if (given === undefined || given.includes('-----BEGIN')) return given;
  try {
    return readFileSync(given, 'utf8');
  } catch (error) {
    throw new AddressError(`cannot read ${name}: ${(error as Error).message}`);
  }
}

export const tls: Connect = (address, events, options) => {
  const { host, port } = place(address);
  const name = options.server_name ?? host;
  const socket = node_tls.connect({
    host,
    port,
    // A numeric address has no server name, but is verified.
    ...(net.isIP(name) ? {} : { servername: name }),
    ca: pem('ca', options),
    cert: pem('cert', options),
    key: pem('key', options),
    rejectUnauthorized: !options.insecure,
  });
  return link(address, socket, 'secureConnect', events);
};
