// Accepting and refusing.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { connection } from '../dist/node.js';
import { eventually, fails, opener, over_both, serve } from './support.js';

let server;
before(async () => {
  server = await serve('accept.lua');
});
after(() => server.stop());
const both = (name, run) => over_both(() => server, name, run);

both('both sides call before the grant, and other calls wait for it', async (opens) => {
  const observer = opens({ symbols: { who: () => 'observer' } });
  await observer.clear();
  let early;
  let granted;
  const events = [];
  const c = opens({
    symbols: {
      who: () => 'sam',
      early: async (f) => { early = await f(); },
    },
    async accept(conn, value) {
      granted = value;
      events.push(['accept', conn.connected, await conn.procs.f('inside'), conn.procs.notify_f(1)]);
    },
  });
  const conn = connection(c);
  for (const event of ['open', 'accept', 'close']) conn.on(event, () => events.push(event));
  const held = c.f('held');
  assert.equal(conn.connected, false);
  assert.equal(c.notify_f('note'), true);
  assert.deepEqual([await held, await c.f('later')], ['held', 'later']);
  assert.ok(conn.connected);
  assert.deepEqual(events, ['open', ['accept', false, 'inside', true], 'accept']);
  assert.deepEqual([early, granted.user, await granted.hello('function')], ['early', 'sam', 'hello function']);
  assert.deepEqual((await observer.events()).slice(0, 4), ['accepting', 'granting', 'f', 'f']);
  conn.close('good night');
  assert.equal(conn.connected, false);
  await eventually(async () => (await observer.events()).includes('close: closed by the peer: good night'));
  assert.equal(events.at(-1), 'close');
});

both('a refusal fails the waiting calls, of which none has run', async (opens) => {
  const reasons = [];
  for (const [name, text] of [['nobody', 'not grant'], ['error', 'no entry']]) {
    const c = opens({ symbols: { who: () => name }, close: (_, reason) => void reasons.push(reason) });
    const e = await fails('NotGrantedError', c.f(1), text);
    assert.equal(e.retryable, true);
    // The next call tries again.
    await fails('NotGrantedError', c.f(2), text);
    assert.equal(connection(c).stats().links, 2);
  }
  assert.equal(reasons.length, 4);
  assert.ok(reasons.every((reason) => reason.startsWith('the connection was not granted')), reasons.join());
});

both('a refused client whose close returns true tries again', async (opens) => {
  const names = ['nobody', 'error', 'frodo'];
  let closed = 0;
  const c = opens({ symbols: { who: () => names.shift() }, close: () => (closed += 1) < 5 });
  const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => c.f(i)));
  assert.deepEqual(answers, Array.from({ length: 20 }, (_, i) => i));
  assert.equal(closed, 2);
});

both('the client has the last word', async (opens) => {
  for (const accept of [() => false, async () => { throw new Error('not this one'); }]) {
    const c = opens({ symbols: { who: () => 'gimli' }, accept });
    await fails('NotGrantedError', c.f(1), 'callback');
  }
});

test('a handshake that takes too long is refused', { timeout: 60_000 }, async (t) => {
  // By the server's own limit; hostile.test.js has the client's.
  const hasty = await serve('accept.lua', ['0.3']);
  t.after(() => hasty.stop());
  for (const transport of ['tcp', 'ws']) {
    const c = opener(t, () => hasty[transport])({ symbols: { who: () => 'slow' } });
    await fails('NotGrantedError', c.f(1), 'too long');
  }
});

both('an error in a callback is logged and closes the connection', async (opens) => {
  const logged = [];
  const c = opens({
    log: (text) => logged.push(text),
    symbols: { who: () => 'gimli' },
    accept: () => { throw new Error('x'); },
    close: () => { throw new Error('y'); },
  });
  await fails('NotGrantedError', c.f(1));
  assert.deepEqual(logged, ['yue: accept failed', 'yue: close failed']);
  const d = opens({ log: (text) => logged.push(text), symbols: { who: () => 'gimli' } });
  connection(d).on('open', () => { throw new Error('z'); });
  assert.equal(await d.f(1), 1);
  assert.equal(logged[2], 'yue: a listener of open failed');
});
