// Functions as values.
import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import { connection, open } from '../dist/node.js';
import { eventually, fails, over_both, serve } from './support.js';

let server;
before(async () => {
  server = await serve('server.lua');
});
after(() => server.stop());
const both = (name, run) => over_both(() => server, name, run);

both('a function runs where it was made, both ways', async (opens) => {
  const c = opens();
  assert.equal(await c.call((a, b) => a * b, 6, 7), 42);
  const join = await c.make('a');
  assert.equal(await join('b'), 'ab');
  assert.equal(await c.in_tables({ list: [(x) => x, async (x) => x * 10] }), 21);
  await c.keep('f', async (x) => (await c.make('deep '))(x));
  assert.equal(await c.use('f', 'call'), 'deep call');
  const level = async (n) => (n === 0 ? 0 : 1 + (await c.call(level, n - 1)));
  assert.equal(await c.call(level, 20), 20);
});

both('back at its owner it is itself', async (opens) => {
  const c = opens();
  const mine = () => 'mine';
  assert.equal((await c.same(mine, mine))[1], mine);
  const join = await c.make('a');
  const [same, returned] = await c.same(join, join);
  assert.deepEqual([same, returned === join, await returned('d')], [true, true, 'ad']);
});

both('what it throws arrives', async (opens) => {
  const c = opens();
  await fails('RuntimeError', c.call(() => { throw new Error('from home'); }), 'from home');
  const join = await c.make('a');
  await fails('RuntimeError', join({}), 'concatenate');
});

both('a function of another connection cannot be passed on', async (opens) => {
  const c = opens();
  const d = opens();
  const join = await c.make('a');
  await fails('ArgumentError', d.call(join, 'e'), 'another connection');
  assert.equal(await d.call((...args) => join(...args), 'e'), 'ae');
});

both('functions above references_max are refused', async (opens) => {
  const c = opens({ references_max: 10 });
  for (let i = 0; i < 10; i += 1) await c.keep(`limit ${i}`, () => i);
  await fails('MessageRefusedError', c.keep('one more', () => {}), 'references_max');
  assert.equal(connection(c).stats().functions_held, 10);
  assert.equal(await c.add(1, 2), 3);
  // One that crosses again is not another function.
  const shared = () => {};
  const d = opens({ references_max: 1 });
  await d.keep('a', shared);
  await d.keep('b', shared);
});

both('the server releases what it has dropped', async (opens) => {
  const c = opens();
  let called = 0;
  for (let i = 0; i < 100; i += 1) await c.keep(i, () => void (called += 1));
  for (let i = 0; i < 100; i += 1) await c.use(i);
  assert.equal(called, 100);
  assert.ok(connection(c).stats().functions_held >= 100);
  await eventually(async () => {
    await c.drop();
    return connection(c).stats().functions_held === 0;
  }, 'the release of all functions');
});

both('what the engine collects is released at the server', async (opens) => {
  assert.ok(globalThis.gc, 'run the tests with --expose-gc');
  const c = opens();
  for (let i = 0; i < 100; i += 1) assert.equal(await (await c.make(i))('x'), `${i}x`);
  const kept = await c.make('kept ');
  await eventually(async () => {
    globalThis.gc();
    return (await c.held()) <= 2;
  }, 'the release of all functions');
  assert.equal(await kept('x'), 'kept x');
});

both('functions end with their link', async (opens) => {
  const c = opens();
  const made = await c.make('a');
  await c.keep('mine', () => 'mine');
  await fails('ConnectionLostError', c.hang_up());
  assert.equal(await c.add(1, 2), 3);
  const e = await fails('ConnectionLostError', made('b'), 'get it from the peer again');
  assert.equal(e.retryable, true);
  await fails('ConnectionLostError', c.call(made, 'b'));
  assert.deepEqual([await c.held(), connection(c).stats().functions_held], [0, 0]);
  assert.equal(await (await c.make('c'))('d'), 'cd');
});

both('a held call carries functions to the next link', async (opens, t, address) => {
  const c = open(address());
  t.after(() => connection(c).close());
  // Nothing is connected yet.
  assert.equal(await c.call((x) => x + 1, 1), 2);
  const made = await c.make('a');
  const lost = c.hang_up().catch(() => {});
  await lost;
  const held = c.call(() => 'held', 1);
  await fails('ConnectionLostError', c.call(made, 1));
  assert.equal(await held, 'held');
});
