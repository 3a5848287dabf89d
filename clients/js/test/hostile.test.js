// Servers that send garbage, too much, or nothing: each costs its own connection, and nothing else.
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { decodeMulti, encode } from '@msgpack/msgpack';
import { WebSocketServer } from 'ws';
import { connection, open } from '../dist/node.js';
import { eventually, fails } from './support.js';

const hello = (message) => message[0] === 0 && message[2] === '$yue/hello';
const greet = (send, id) => send(encode([1, id, null, [1, {}]]), encode([2, '$yue/granted', [true]]));

/** The messages in what was read. The part of a large one at the end is left out. */
function* whole(bytes) {
  try {
    yield* decodeMulti(bytes);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
}

/** A server that greets, and calls `on_message(message, send)` for all else. Returns its address. */
async function peer(t, on_message, on_connect = () => {}) {
  const server = createServer((socket) => {
    const send = (...parts) => socket.writable && socket.write(Buffer.concat(parts));
    socket.on('error', () => {});
    t.after(() => socket.destroy());
    on_connect(send, socket);
    socket.on('data', (bytes) => {
      for (const message of whole(bytes)) {
        if (hello(message)) greet(send, message[1]);
        else on_message(message, send, socket);
      }
    });
  }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await new Promise((done) => server.once('listening', done));
  return `tcp://127.0.0.1:${server.address().port}`;
}

function opened(t, address, options = {}) {
  const c = open(address, { log() {}, timeout: 60, ...options });
  t.after(() => connection(c).close());
  return c;
}

const limit = { timeout: 60_000 };

test('each link has another number, which its hello tells the server', limit, async (t) => {
  const numbers = new Set();
  const address = await peer(t, ([, id], send, socket) => {
    send(encode([1, id, null, 'good']));
    socket.end();
  }, (_, socket) => socket.on('data', (bytes) => {
    for (const message of whole(bytes)) if (hello(message)) numbers.add(message[3][1].id);
  }));
  const c = opened(t, address);
  for (let links = 1; links <= 3; links += 1) {
    await c.f();
    await eventually(() => !connection(c).connected);
    assert.equal(numbers.size, links);
  }
  for (const number of numbers) assert.ok(Number.isSafeInteger(number) && number > 0, String(number));
});

test('nonsense ends the waiting calls after three links', limit, async (t) => {
  for (const nonsense of ['HTTP/1.1 400 Bad Request\r\n\r\n', '\x15\x03\x01\x00\x02', '\xc1\xc1', '\x93\x05\x01\x02']) {
    let links = 0;
    const address = await peer(t, () => {}, (send, socket) => {
      links += 1;
      socket.removeAllListeners('data');
      send(Buffer.from(nonsense, 'latin1'));
    });
    const c = opened(t, address);
    const e = await fails('ConnectionLostError', c.f(), 'does not speak msgpack-rpc');
    assert.deepEqual([links, e.retryable], [3, true]);
    await fails('ConnectionLostError', c.f());
  }
});

test('a malformed message on a link that was good ends it, and the next link serves', limit, async (t) => {
  const bad = [
    [0xc1], [0x91, 0xc1], [0x05], [0x80], [0xa1, 0x61], [0x90], [0x91, 0x01], [0x94, 0x01, 0xff, 0xc0, 0xc0],
    [0x94, 0x03, 0x00, 0xc0, 0xc0], [0x94, 0x00, 0x01, 0xa1, 0x66, 0xc0], [0x93, 0x02, 0xc3, 0x90],
    [0x94, 0x01, 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc0, 0xc0], [0xdd, 0xff, 0xff, 0xff, 0xff],
    [0x94, 0x01, 0x01, 0xc0, 0xc6, 0xff, 0xff, 0xff, 0xff], [0x93, 0x02, 0xdf, 0xff, 0xff, 0xff, 0xff],
  ];
  const address = await peer(t, ([, id, name, [which]], send) => {
    if (name === 'bad') send(Uint8Array.from(bad[which]));
    else send(encode([1, id, null, 'good']));
  });
  await Promise.all(bad.map(async (_, which) => {
    const c = opened(t, address);
    assert.equal(await c.good(), 'good');
    const e = await fails('ConnectionLostError', c.bad(which), 'received "');
    assert.equal(e.retryable, false);
    assert.equal(await c.good(), 'good');
    assert.equal(connection(c).stats().links, 2);
  }));
});

test('answers of other ids, and of none, are ignored', limit, async (t) => {
  const address = await peer(t, ([, id], send) => {
    for (const other of [id + 1, id + 1000, 0xffffffff]) send(encode([1, other, null, 'wrong']));
    send(encode([1, id, null, 'right']));
    send(encode([1, id, null, 'twice']));
    send(encode([1, id, ['an error'], null]));
  });
  const c = opened(t, address);
  for (let i = 0; i < 10; i += 1) assert.equal(await c.f(), 'right');
  assert.deepEqual([connection(c).stats().links, connection(c).stats().calls_in_flight], [1, 0]);
});

test('a control message out of turn is ignored', limit, async (t) => {
  const address = await peer(t, ([kind, id], send) => {
    if (kind !== 0) return;
    for (const name of ['granted', 'cancel', 'release', 'chunk', 'resume', 'nonsense']) {
      for (const args of [[], [null], [[[1, 2]]], [[1]], ['x'], [[[0, 1e300], [null, 1], 5]]]) {
        send(encode([2, `$yue/${name}`, args]));
      }
    }
    send(encode([0, 5, '$yue/hello', [1, {}]]), encode([0, 6, '$yue/ping', []]), encode([1, id, null, 'fine']));
  });
  const c = opened(t, address);
  assert.equal(await c.f(), 'fine');
  assert.equal(await c.f(), 'fine');
  assert.equal(connection(c).stats().links, 1);
});

test('an answer above message_max is the error of its call, and ends the link', limit, async (t) => {
  const address = await peer(t, ([, id, name], send) => {
    send(encode([1, id, null, name === 'big' ? 'x'.repeat(20_000) : 'small']));
  });
  const c = opened(t, address, { message_max: 10_000 });
  await fails('MessageTooLargeError', c.echo('x'.repeat(10_000)), 'message_max');
  assert.throws(() => c.notify_echo('x'.repeat(10_000)), { type: 'MessageTooLargeError' });
  assert.equal(await c.small(), 'small');
  await fails('MessageTooLargeError', c.big(), 'message_max');
  assert.equal(await c.small(), 'small');
  assert.equal(connection(c).stats().links, 2);
});

test('values that are nested too deep, or take too much memory, are errors of their call', limit, async (t) => {
  const nested = (levels) => Uint8Array.from([...Array(levels - 1).fill(0x91), 0x90]);
  const answers = {
    deep: (id) => [Uint8Array.from([0x94, 1, id, 0xc0]), nested(500)],
    allowed: (id) => [Uint8Array.from([0x94, 1, id, 0xc0]), nested(128)],
    bomb: (id) => [Uint8Array.from([0x94, 1, id, 0xc0, 0xdd, 0, 2, 0, 0]), new Uint8Array(0x20000).fill(0x90)],
    abyss: (id) => [Uint8Array.from([0x94, 1, id, 0xc0]), nested(100_000)],
  };
  let refused;
  const address = await peer(t, ([kind, id, name], send) => {
    if (kind === 1) refused = name;
    else if (name === 'ask') send(Buffer.from([0x94, 0, 9, 0xa1, 0x66, 0x91]), nested(500), encode([1, id, null, 1]));
    else send(...answers[name](id));
  });
  const c = opened(t, address, { message_max: 200_000, symbols: { f() {} } });
  assert.equal(JSON.stringify(await c.allowed()), `${'['.repeat(128)}${']'.repeat(128)}`);
  await fails('MessageRefusedError', c.deep(), 'nested deeper');
  await fails('MessageRefusedError', c.bomb(), 'memory');
  await c.ask();
  assert.equal((await eventually(() => refused))[2].type, 'MessageRefusedError');
  assert.equal(connection(c).stats().links, 1);
  await fails('ConnectionLostError', c.abyss());
});

test('a flood of requests whose answers nobody reads ends the link', limit, async (t) => {
  const big = encode([0, 1, 'f', []]);
  let flooding;
  const address = await peer(t, (message, send, socket) => {
    if (message[2] !== 'flood' || flooding) return;
    flooding = true;
    socket.pause();
    const more = () => {
      while (socket.writable && socket.write(big));
      if (socket.writable) setImmediate(more);
    };
    more();
  });
  const c = opened(t, address, {
    output_max: 100_000, message_max: 100_000, reconnect: false, symbols: { f: () => 'x'.repeat(50_000) },
  });
  let reason;
  connection(c).on('close', (text) => { reason = text; });
  const call = fails('ConnectionLostError', c.flood());
  assert.equal(await eventually(() => reason), 'the peer reads nothing');
  await call;
});

test('calls and notifications above output_max are refused', limit, async (t) => {
  const address = await peer(t, (message, send, socket) => void socket.pause());
  const c = opened(t, address, { output_max: 200_000 });
  c.stop().catch(() => {});
  await eventually(() => connection(c).connected);
  const text = new Uint8Array(100_000);
  await eventually(() => !c.notify_f(text));
  const e = await fails('QueueFullError', c.f(1), 'output_max');
  assert.equal(e.retryable, true);
  assert.ok(connection(c).stats().notifications_dropped >= 1);
});

test('a server that greets nobody is given up', limit, async (t) => {
  const silent = createServer(() => {}).listen(0, '127.0.0.1');
  t.after(() => silent.close());
  await new Promise((done) => silent.once('listening', done));
  const c = opened(t, `tcp://127.0.0.1:${silent.address().port}`, { handshake_timeout: 0.2 });
  await fails('NotGrantedError', c.f(), 'too long');
});

test('messages arrive in any pieces', limit, async (t) => {
  const value = { list: Array.from({ length: 50 }, (_, i) => ({ i, text: 'x'.repeat(i * 10), wide: 2 ** 40 + i })) };
  const address = await peer(t, ([, id, , [size]], send) => {
    const bytes = Buffer.concat([encode([1, id + 77, null, 1]), encode([1, id, null, value])]);
    let at = 0;
    const more = () => {
      send(bytes.subarray(at, (at += size)));
      if (at < bytes.length) setImmediate(more);
    };
    more();
  });
  const c = opened(t, address);
  for (const size of [1, 2, 3, 7, 100, 5000]) assert.deepEqual(await c.f(size), value);
});

test('text over WebSocket ends the link', limit, async (t) => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  t.after(() => server.close());
  await new Promise((done) => server.once('listening', done));
  server.on('connection', (socket) => {
    t.after(() => socket.terminate());
    socket.on('message', (bytes) => {
      for (const message of decodeMulti(bytes)) {
        if (hello(message)) greet((...parts) => parts.forEach((part) => socket.send(part)), message[1]);
        else if (message[2] === 'cut') {
          // One message in two frames, and two messages in one.
          const answer = encode([1, message[1], null, 'whole']);
          socket.send(answer.subarray(0, 3));
          socket.send(Buffer.concat([answer.subarray(3), encode([2, 'unknown', []])]));
        } else socket.send('text');
      }
    });
  });
  const c = opened(t, `ws://127.0.0.1:${server.address().port}/`);
  assert.equal(await c.cut(), 'whole');
  await fails('ConnectionLostError', c.f(), 'received "text"');
  assert.equal(await c.cut(), 'whole');
});
