// The client for Node.js: TCP, TLS and Unix sockets, and WebSocket where there is one: the global one of Node.js 22, or
// the package `ws`. The handshake and the frames of WebSocket are not written here a second time: TCP is the better
// choice between a Node.js program and a yue server, and what must speak WebSocket can have the package.

import { createRequire } from 'node:module';
import { opener, type Open } from './open.js';
import { tcp, tls, unix } from './sockets.js';
import { websocket, type Socket } from './websocket.js';

export * from './exports.js';

type SocketClass = new (address: string, protocol: string) => Socket;

function socket_class(): SocketClass {
  const found = (globalThis as { WebSocket?: unknown }).WebSocket;
  if (found) return found as SocketClass;
  // Beside this package, or beside the program: an installed folder is a link, which leads away from the program.
  for (const from of [import.meta.url, process.argv[1]]) {
    try {
      return createRequire(from!)('ws') as SocketClass;
    } catch {
      // Reported below.
    }
  }
  throw new Error('this Node.js has no WebSocket: npm install ws, or use tcp://');
}

const connect = websocket((address, protocol) => new (socket_class())(address, protocol));

export const open: Open = opener({ tcp, tls, unix, ws: connect, wss: connect });
