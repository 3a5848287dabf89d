// npm's ws, with @msgpack/msgpack: calls, notifies, answers a call made in mid-call, and the reason of a close.
'use strict';
const assert = require('assert');
const WebSocket = require('ws');
const { encode, decodeMulti } = require('@msgpack/msgpack');

const address = process.argv[2];

// What the book shows for browsers.
function open(socket, methods) {
  const waiting = new Map();
  let next = 0;
  socket.binaryType = 'arraybuffer';
  socket.onmessage = async ({ data }) => {
    for (const [kind, ...rest] of decodeMulti(new Uint8Array(data))) {
      if (kind === 1) {
        const [id, error, result] = rest;
        const [resolve, reject] = waiting.get(id);
        waiting.delete(id);
        if (error === null) resolve(result); else reject(new Error(error[1]));
      } else if (kind === 0) {
        const [id, name, args] = rest;
        const known = name in methods;
        const result = known ? await methods[name].apply(null, args) : null;
        socket.send(encode([1, id, known ? null : `there is no ${name}`, result]));
      } else if (kind === 2) {
        const [name, args] = rest;
        methods[name]?.apply(null, args);
      }
    }
  };
  return {
    call: (name, ...args) => new Promise((resolve, reject) => {
      waiting.set(next, [resolve, reject]);
      socket.send(encode([0, next++, name, args]));
    }),
    notify: (name, ...args) => socket.send(encode([2, name, args])),
  };
}

const opened = (socket) => new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
const closed = (socket) => new Promise((resolve) => { socket.onclose = resolve; });

async function main() {
  const socket = new WebSocket(address, 'msgpack-rpc');
  await opened(socket);
  assert.strictEqual(socket.protocol, 'msgpack-rpc');
  assert.strictEqual(socket.extensions, '');
  const peer = open(socket, { client_add: (a, b) => a + b });
  assert.strictEqual(await peer.call('hello', 'ws'), 'hello ws');
  assert.strictEqual(await peer.call('ask_back', 20, 22), 'the client says 42');
  const sums = await Promise.all([...Array(1000).keys()].map((i) => peer.call('math.add', i, i)));
  assert.deepStrictEqual(sums, [...Array(1000).keys()].map((i) => 2 * i));
  assert.strictEqual((await peer.call('bytes', 300000)).length, 300000);
  await assert.rejects(peer.call('fail'), /this went wrong on the server/);
  await assert.rejects(peer.call('_secret'), /is private/);
  peer.notify('note', 'noted by ws');
  assert((await peer.call('noted')).includes('noted by ws'));
  const pong = new Promise((resolve) => socket.on('pong', resolve));
  socket.ping('are you there?');
  assert.strictEqual(String(await pong), 'are you there?');
  const end = closed(socket);
  socket.close(1000, 'done');
  const { code, wasClean } = await end;
  assert.deepStrictEqual([code, wasClean], [1000, true]);

  const text = new WebSocket(address);
  await opened(text);
  const refused = closed(text);
  text.send('text');
  const why = await refused;
  assert.strictEqual(why.code, 1003);
  assert(why.reason.includes('binary'), why.reason);

  const page = new WebSocket(address, { origin: 'http://evil.example' });
  await assert.rejects(opened(page), (event) => /403/.test(event.message));
  console.log('ws: all went well');
  process.exit(0);
}
main().catch((error) => { console.error(error); process.exit(1); });
