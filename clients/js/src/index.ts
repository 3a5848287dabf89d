// The client for browsers, and for every other engine that has a WebSocket.

import { opener, type Open } from './open.js';
import { websocket, type Socket } from './websocket.js';

export * from './exports.js';

const connect = websocket((address, protocol) => new WebSocket(address, protocol) as unknown as Socket);

export const open: Open = opener({ ws: connect, wss: connect });
