// Calls, results, values, errors and notifications.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  ArgumentError, ClientError, ExtData, NoMethodError, RPCError, RuntimeError, YueError, connection, open,
} from '../dist/node.js';
import { eventually, fails, later, over_both, serve } from './support.js';

let server;
before(async () => {
  server = await serve('server.lua');
});
after(() => server.stop());
const both = (name, run) => over_both(() => server, name, run);

both('a call returns its result', async (opens) => {
  const c = opens();
  assert.equal(await c.add(1, 2), 3);
  assert.equal(await c.deep.er.est('x'), 'deepest x');
});

both('many calls at once are answered each', async (opens) => {
  const c = opens();
  const sums = await Promise.all(Array.from({ length: 2000 }, (_, i) => c.add(i, 1)));
  assert.deepEqual(sums, Array.from({ length: 2000 }, (_, i) => i + 1));
});

both('no result is undefined, several are an array, and arguments are counted', async (opens) => {
  const c = opens();
  assert.equal(await c.nothing(), undefined);
  assert.equal(await c.echo(null), null);
  assert.deepEqual(await c.echo(null, 2, undefined), [null, 2, null]);
  for (const n of [2, 15, 16, 200]) assert.equal((await c.many(n)).length, n);
  assert.equal(await c.many(1), 1);
  assert.deepEqual([await c.count(), await c.count(null), await c.count(null, 1, undefined)], [0, 1, 3]);
  const all = (name, ...args) => connection(c).call(name, args, { all: true });
  assert.deepEqual([await all('nothing'), await all('echo', [1]), await all('echo', 1, 2)], [[], [[1]], [1, 2]]);
});

both('procedures are not thenable', async (opens) => {
  const c = opens();
  const same = await c;
  assert.equal(await same.add(2, 2), 4);
  const { er } = await c.deep;
  assert.equal(await (await er).est('x'), 'deepest x');
  assert.equal(await c['=then'](), 'then');
});

both('prefixes count at the start of the last name, and = takes a name literally', async (opens) => {
  const c = opens();
  assert.equal(await c.async_add(1, 2), 3);
  assert.equal(await c.timed_async_add(5, 1, 2), 3);
  assert.equal(await c.deep.er.timed_est(5, 'x'), 'deepest x');
  assert.equal(await c['=async_name'](), 'the real async_name');
  assert.equal(await c['=timed_notify_name'](), 'the real timed_notify_name');
  assert.equal(await c['=deep.er.est']('x'), 'deepest x');
  await fails('NoMethodError', c.timed_deep.er.est(5), 'timed_deep');
  await fails('NoMethodError', c.async_(), "'async_'");
  await fails('ArgumentError', c.timed_add(-1, 2), 'seconds');
  await fails('ArgumentError', c.timed_add('x', 2));
  await fails('ArgumentError', c(), 'name a procedure');
  assert.throws(() => c.timed_notify_add('x'), ArgumentError);
  assert.throws(() => { c.add = 1; }, ArgumentError);
});

both('a notification has no answer', async (opens) => {
  const heard = [];
  const c = opens({ symbols: { hear: (...args) => void heard.push(args) } });
  assert.equal(c.notify_tell('hear', 1, 'two'), true);
  assert.equal(c.notify_missing(), true);
  assert.equal(c.timed_notify_tell(5, 'hear', 3), true);
  assert.equal(connection(c).notify('tell', 'hear', 4), true);
  await eventually(() => heard.length === 3);
  assert.deepEqual(heard, [[1, 'two'], [3], [4]]);
});

both('values arrive as they were sent', async (opens) => {
  const c = opens();
  const values = [
    0, 1, -1, 127, 128, 255, 256, 65535, 65536, -32, -33, -128, -129, -32768, -32769, 2 ** 31, 2 ** 32, -(2 ** 31),
    2 ** 53 - 1, -(2 ** 53) + 1, 0.5, -1.25, 1e300, 5e-324, Infinity, -Infinity, NaN, true, false, null, '', 'text',
    'ünï 😀', 'x'.repeat(31), 'x'.repeat(32), 'ü'.repeat(300), 'x'.repeat(70000), [], [1, 2, 3], [[[]]],
    { a: 1, b: [2, { c: 3 }] }, 2n ** 62n, -(2n ** 62n), 2n ** 63n, { list: [2n ** 60n, 2 ** 40, 'x'] },
    new Uint8Array([0, 255, 254]), new Uint8Array(1000).fill(255),
  ];
  for (const value of values) assert.deepEqual(await c.echo(value, 1), [value, 1]);
  const list = Array.from({ length: 1000 }, (_, n) => ({ n, text: String(n) }));
  assert.deepEqual(await c.echo(list), list);
});

both('integers, holes, bytes and keys have their forms on both sides', async (opens) => {
  const c = opens();
  assert.equal(await c.kind(2n ** 63n), 'cdata 9223372036854775808ULL');
  assert.equal(await c.kind(-2n), 'number -2');
  assert.equal(await c.kind(2 ** 40), 'number 1099511627776');
  assert.equal(await c.kind(undefined), 'nil nil');
  assert.equal(await c.holes([1, , 3]), true); // eslint-disable-line no-sparse-arrays
  assert.deepEqual(await c.bytes(), new Uint8Array([0, 255, 254]));
  assert.deepEqual(await c.keys(), [{ 5: 'five', ten: 10 }, { true: 'yes' }]);
  assert.deepEqual(await c.echo({ a: undefined, b: 1, c: null }), { b: 1 });
  assert.equal(await c.kind(new Uint16Array([0x4141])), 'string AA');
  assert.deepEqual(await c.echo(new ExtData(7, new Uint8Array([1, 2]))), new ExtData(7, new Uint8Array([1, 2])));
});

both('what cannot be sent is an error of that call, with the path to it', async (opens) => {
  const c = opens();
  const cyclic = [[]];
  cyclic[0].push({ back: cyclic });
  await fails('ArgumentError', c.echo(Symbol('s')), 'args[0]: a symbol');
  await fails('ArgumentError', c.echo(1, { a: [1, 2, new Map()] }), 'args[1].a[2]: a Map');
  for (const value of [new Set(), new Date(), /x/, new Error('x'), Promise.resolve(), new ArrayBuffer(1)]) {
    await fails('ArgumentError', c.echo(value), 'args[0]');
  }
  await fails('ArgumentError', c.echo(cyclic), 'contains itself');
  await fails('ArgumentError', c.echo(2n ** 64n), '64 bits');
  await fails('ArgumentError', c.echo(c), 'procedures');
  await fails('ArgumentError', c.echo([c.add]), 'procedures');
  assert.throws(() => c.notify_echo(Symbol('s')), ArgumentError);
  assert.equal(await c.echo('still there'), 'still there');
  assert.equal(connection(c).stats().links, 1);
});

both('errors have the types of the tree', async (opens) => {
  const c = opens();
  const e = await fails('RuntimeError', c.fail('it went wrong'));
  assert.ok(e instanceof RuntimeError && e instanceof RPCError && e instanceof YueError && e instanceof Error);
  assert.ok(e.is_a('RuntimeError') && e.is_a('RPCError') && e.is_a('Error') && !e.is_a('ClientError'));
  assert.ok(!(e instanceof ClientError));
  assert.deepEqual([e.msg, e.message, e.code, e.retryable], ['it went wrong', 'it went wrong', -103, false]);
  assert.equal(String(e), 'RuntimeError: it went wrong');
  assert.equal(e.traceback, undefined);
  assert.deepEqual((await fails('RuntimeError', c.fail_with({ code: 3, why: ['a'] }))).value, { code: 3, why: ['a'] });
  const typed = await fails('ArgumentError', c.fail_typed(), 'a number is needed');
  assert.deepEqual([typed.value, typed.code], [{ position: 1 }, -232]);
  await fails('RuntimeError', c.fail_here(), 'server.lua:');
  await fails('RuntimeError', c.fail('null'));
});

both('a missing name, a private one and a value that is not a function are NoMethodError', async (opens) => {
  const c = opens();
  for (const name of ['missing', '_private', 'deep', 'deep.er', 'deep..er', 'string.rep', '$yue/nothing', '__index']) {
    const e = await fails('NoMethodError', c[`=${name}`]());
    assert.ok(e instanceof NoMethodError && e.retryable === false);
  }
  await fails('NoMethodError', c.deep.missing(), 'deep.missing');
});

both('the server lists its functions', async (opens) => {
  const functions = await connection(opens()).describe();
  assert.ok(functions.some(({ name, params }) => name === 'add' && params.join() === 'a,b'));
});

both('a value that cannot be accepted is an error of its call alone', async (opens) => {
  const c = opens();
  const nap = c.nap(0.01);
  await fails('MessageRefusedError', c.proto(), '__proto__');
  assert.equal({}.polluted, undefined);
  assert.equal(await nap, 'rested');
  assert.equal(connection(c).stats().links, 1);
});

both('a call ends with its time, and the answer that comes later is dropped', async (opens) => {
  const c = opens();
  let timeouts = 0;
  connection(c).on('timeout', () => { timeouts += 1; });
  assert.equal(await c.echo(1), 1);
  const e = await fails('TimeoutError', c.timed_nap(0.02, 0.1), 'did not answer in time');
  assert.equal(e.retryable, false);
  await fails('TimeoutError', connection(c).call('nap', [0.1], { timeout: 0.02 }));
  assert.equal(await c.nap(0.15), 'rested');
  const stats = connection(c).stats();
  assert.deepEqual([stats.calls_in_flight, stats.links, stats.timeouts, timeouts], [0, 1, 2, 2]);
  const short = opens({ timeout: 0.02 });
  assert.equal(await short.timed_echo(5, 1), 1);
  await fails('TimeoutError', short.nap(1));
});

both('the remaining time travels with the call', async (opens) => {
  const c = opens();
  const between = (low, value, high) => assert.ok(low <= value && value <= high, String(value));
  between(0, await c.left(), 60);
  assert.ok((await opens({ timeout: 30 }).left()) <= 30);
  between(50, await c.timed_left(100), 100);
  assert.equal(await c.timed_left(Infinity), null);
});

both('a timeout and an abort cancel the handler', async (opens) => {
  const c = opens();
  // On a busy machine the time may pass before the handler has started.
  for (let seconds = 0.05; !(await c.state('timed')); seconds *= 2) {
    await fails('TimeoutError', c.timed_block(seconds, 'timed'));
  }
  await eventually(async () => /TimeoutError|CancelledError/.test(await c.state('timed')));
  const controller = new AbortController();
  const call = connection(c).call('block', ['aborted'], { signal: controller.signal, timeout: Infinity });
  await eventually(() => c.state('aborted'));
  controller.abort();
  const e = await fails('CancelledError', call);
  assert.equal(e.retryable, false);
  await eventually(async () => (await c.state('aborted')) === 'CancelledError');
  await fails('CancelledError', connection(c).call('echo', [], { signal: controller.signal }));
});

test('a foreign server answers, without extensions', { timeout: 60_000 }, async (t) => {
  // A plain server, in a few lines: it knows no hello, and returns what it got.
  const { createServer } = await import('node:net');
  const { decodeMulti, encode } = await import('@msgpack/msgpack');
  const seen = [];
  const heard = later();
  const plain = createServer((socket) => {
    socket.on('data', (bytes) => {
      for (const message of decodeMulti(bytes)) {
        seen.push(message);
        const [kind, id, name, args] = message;
        if (kind === 1) heard.resolve(message);
        if (kind !== 0) continue;
        if (name === 'echo') socket.write(encode([1, id, null, args[0]]));
        else if (name === 'ask') {
          socket.write(encode([0, 7, 'mine', [20]]));
          socket.write(encode([1, id, null, null]));
        }
        else if (name === 'code') socket.write(encode([1, id, [404, 'not found'], null]));
        else if (name === 'odd') socket.write(encode([1, id, { why: 'odd' }, null]));
        else socket.write(encode([1, id, `no ${name}`, null]));
      }
    });
  }).listen(0, '127.0.0.1');
  t.after(() => plain.close());
  await new Promise((done) => plain.once('listening', done));
  const c = open(`tcp://127.0.0.1:${plain.address().port}`, { symbols: { mine: (x) => [x, x + 1] } });
  t.after(() => connection(c).close());
  assert.deepEqual(await c.echo({ a: [1, 2] }), { a: [1, 2] });
  const [, , hello, [version, offers]] = seen[0];
  assert.deepEqual([hello, version, Object.keys(offers)], ['$yue/hello', 1, ['id']]);
  assert.ok(Number.isSafeInteger(offers.id) && offers.id > 0, offers.id);
  assert.equal(seen[1].length, 4);
  assert.equal((await fails('RPCError', c.missing(), 'no missing')).code, -100);
  assert.equal((await fails('RPCError', c.code(), 'not found')).code, 404);
  assert.deepEqual((await fails('RPCError', c.odd())).value, { why: 'odd' });
  await fails('ArgumentError', c.echo(() => {}), 'not a yue peer');
  await c.ask();
  assert.deepEqual(await heard.promise, [1, 7, null, [20, 21]]);
  const legacy = open(`tcp://127.0.0.1:${plain.address().port}`, { legacy: true });
  t.after(() => connection(legacy).close());
  const before = seen.length;
  assert.equal(await legacy.echo(5), 5);
  assert.equal(seen[before][2], 'echo');
});

test('bad addresses, options and procedures are errors at once', () => {
  for (const address of ['', 'nonsense', 'http://localhost', 'udp://127.0.0.1:1', '/game', 'constructor://x']) {
    assert.throws(() => open(address), { type: 'AddressError' });
  }
  assert.throws(() => open('tcp://127.0.0.1:1', { timeuot: 1 }), { type: 'ArgumentError', msg: /timeuot/ });
  assert.throws(() => open('tcp://127.0.0.1:1', { timeout: '1' }), { type: 'ArgumentError', msg: /timeout/ });
  assert.throws(() => open('tcp://127.0.0.1:1', { timeout: NaN }), ArgumentError);
  assert.throws(() => open('tcp://127.0.0.1:1', { constructor: 1 }), ArgumentError);
  assert.throws(() => connection({}), ArgumentError);
});

test('an address without a host or port fails its call', async () => {
  for (const address of ['tcp://', 'tcp://localhost', 'tls://:80', 'unix://relative', 'tcp://127.0.0.1:99999']) {
    await fails('AddressError', open(address).f());
  }
});
