// Links that end, and the next ones.
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { after, before, test } from 'node:test';
import { connection, open } from '../dist/node.js';
import { eventually, fails, opener, over_both, pause, serve } from './support.js';

const limit = { timeout: 60_000 };
let server;
before(async () => {
  server = await serve('server.lua');
});
after(() => server.stop());
const both = (name, run) => over_both(() => server, name, run);

both('calls that were sent fail, and later ones go out over the next link', async (opens) => {
  const later = [];
  const c = opens({
    close() {
      while (later.length < 20) later.push(c.add(later.length, 1));
      return true;
    },
  });
  assert.equal(await c.add(0, 1), 1);
  const sent = Array.from({ length: 20 }, () => fails('ConnectionLostError', c.nap(60)));
  c.notify_hang_up('the round is over');
  for (const e of await Promise.all(sent)) {
    assert.equal(e.retryable, false);
    assert.ok(e.msg.includes('closed by the peer: the round is over'), e.msg);
  }
  assert.deepEqual(await Promise.all(later), Array.from({ length: 20 }, (_, i) => i + 1));
  assert.equal(connection(c).stats().links, 2);
});

both('a link is made again, unless reconnect or close prevent it; then the next call makes it', async (opens) => {
  for (const options of [{ reconnect: false }, { close: () => false }]) {
    const c = opens(options);
    let reason;
    connection(c).on('close', (text) => { reason = text; });
    assert.equal(await c.add(1, 1), 2);
    c.notify_hang_up('');
    await eventually(() => reason);
    assert.equal(reason, 'closed by the peer');
    await pause(80);
    assert.equal(connection(c).connected, false);
    assert.equal(await c.add(2, 2), 4);
    assert.equal(connection(c).stats().links, 2);
  }
  const c = opens();
  await c.add(1, 1);
  c.notify_hang_up('');
  await eventually(() => connection(c).stats().links === 2 && connection(c).connected);
});

both('a closed connection stays closed', async (opens) => {
  const reasons = [];
  const c = opens({ close: (_, reason) => { reasons.push(reason); return true; } });
  await c.add(1, 1);
  const sent = fails('ConnectionLostError', c.nap(60), 'closed by this side');
  await pause(0);
  connection(c).close();
  connection(c).close('again');
  await sent;
  await fails('ConnectionLostError', c.add(1, 1), 'is closed');
  assert.equal(c.notify_add(1, 1), false);
  assert.deepEqual(reasons, ['closed by this side']);
  const never = opens();
  const held = fails('ConnectionLostError', never.add(1, 1), 'is closed');
  connection(never).close();
  await held;
});

for (const transport of ['tcp', 'ws']) {
  test(`a server that restarts finds its clients and calls again (${transport})`, limit, async (t) => {
    let own = await serve('server.lua');
    t.after(() => own.stop());
    const port = own.tcp;
    const opens = opener(t, () => own[transport]);
    const clients = Array.from({ length: 5 }, () => opens());
    for (const c of clients) assert.equal(await c.add(1, 1), 2);
    for (let round = 0; round < 2; round += 1) {
      const sent = clients.map((c) => fails('ConnectionLostError', c.nap(60)));
      await pause(5);
      await own.kill();
      await Promise.all(sent);
      const held = clients.map((c, i) => c.add(round * 100, i));
      const late = fails('TimeoutError', clients[0].timed_add(0.05, 1, 1), 'was not ready in time');
      const e = await late;
      assert.equal(e.retryable, true);
      own = await serve('server.lua', [port]);
      assert.deepEqual(await Promise.all(held), clients.map((_, i) => round * 100 + i));
    }
    assert.ok(clients.every((c) => connection(c).stats().links === 3));
  });

  test(`a first connect that is refused is an error, unless retry waits (${transport})`, limit, async (t) => {
    const own = await serve('server.lua');
    const { tcp } = own;
    await own.stop();
    const opens = opener(t, () => own[transport]);
    const c = opens();
    const e = await fails('ConnectionRefusedError', c.add(1, 1), own[transport]);
    assert.equal(e.retryable, true);
    assert.equal(c.notify_add(1, 1), true);
    const patient = opens({ retry: true });
    const late = await fails('TimeoutError', patient.timed_add(0.02, 1, 1));
    assert.equal(late.retryable, true);
    const controller = new AbortController();
    const aborted = connection(patient).call('add', [1, 1], { signal: controller.signal });
    const cancelled = fails('CancelledError', aborted);
    controller.abort();
    assert.equal((await cancelled).retryable, true);
    const waiting = patient.add(3, 4);
    const again = await serve('server.lua', [tcp]);
    t.after(() => again.stop());
    assert.equal(await waiting, 7);
    assert.equal(await c.add(4, 4), 8);
  });
}

test('calls that are held are bounded in bytes', { timeout: 60_000 }, async (t) => {
  const own = await serve('server.lua');
  const { tcp } = own;
  await own.stop();
  const c = open(tcp, { retry: true, timeout: 60, held_max: 100_000 });
  t.after(() => connection(c).close());
  const text = 'x'.repeat(10_000);
  const calls = Array.from({ length: 20 }, () => c.echo(text).catch((e) => e));
  const refused = await fails('QueueFullError', c.echo(text), 'held_max');
  assert.equal(refused.retryable, true);
  assert.equal(c.notify_echo(text), false);
  const again = await serve('server.lua', [tcp]);
  t.after(() => again.stop());
  const answers = await Promise.all(calls);
  assert.equal(answers.filter((answer) => answer === text).length, 9);
  assert.equal(answers.filter((answer) => answer.type === 'QueueFullError').length, 11);
});

test('the waits before retries grow, and a random part is left out', { timeout: 60_000 }, async (t) => {
  const times = [];
  const refuser = createServer((socket) => {
    times.push(performance.now());
    socket.destroy();
  }).listen(0, '127.0.0.1');
  t.after(() => refuser.close());
  await new Promise((done) => refuser.once('listening', done));
  const c = open(`tcp://127.0.0.1:${refuser.address().port}`, { timeout: 60 });
  t.after(() => connection(c).close());
  const call = c.f();
  call.catch(() => {});
  await eventually(() => times.length >= 4);
  const waits = times.slice(1).map((time, i) => time - times[i]);
  // 25 to 50 ms, 50 to 100, 100 to 200; timers may be late, and not early.
  for (const [i, low] of [25, 50, 100].entries()) assert.ok(waits[i] >= low - 2, waits.join());
});

test('a peer that does not answer pings is lost', { timeout: 60_000 }, async (t) => {
  const { decodeMulti, encode } = await import('@msgpack/msgpack');
  let pings = 0;
  let answering = true;
  const peer = createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (bytes) => {
      for (const [kind, id, name] of decodeMulti(bytes)) {
        if (kind !== 0) continue;
        if (name === '$yue/ping') pings += 1;
        if (name === '$yue/ping' && !answering) continue;
        socket.write(encode([1, id, null, name === '$yue/hello' ? [1, {}] : 'pong']));
        if (name === '$yue/hello') socket.write(encode([2, '$yue/granted', [true]]));
      }
    });
  }).listen(0, '127.0.0.1');
  t.after(() => peer.close());
  await new Promise((done) => peer.once('listening', done));
  const c = open(`tcp://127.0.0.1:${peer.address().port}`, { keepalive: 0.1, timeout: 60 });
  t.after(() => connection(c).close());
  let reason;
  connection(c).on('close', (text) => { reason = text; });
  assert.equal(await c.f(), 'pong');
  await eventually(() => pings >= 3);
  assert.equal(reason, undefined);
  answering = false;
  await eventually(() => reason);
  assert.match(reason, /does not answer pings/);
});
