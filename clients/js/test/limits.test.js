// Order, big values, limits and what the server does to slow or eager clients: behaviours of yue's conformance suite.
import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import { connection } from '../dist/node.js';
import { eventually, fails, over_both, serve } from './support.js';

let server;
let strict;
before(async () => {
  server = await serve('server.lua');
  strict = await serve('strict.lua');
});
after(async () => {
  await server.stop();
  await strict.stop();
});
const both = (name, run) => over_both(() => server, name, run);
const both_strict = (name, run) => over_both(() => strict, name, run);

both('calls and notifications start in the order in which they were made', async (opens) => {
  const c = opens();
  for (let i = 1; i <= 200; i += 1) {
    if (i % 3 === 0) c.notify_append(i);
    else c.append(i).catch(() => {});
  }
  assert.deepEqual(await c.appended(), Array.from({ length: 200 }, (_, i) => i + 1));
});

both('big values travel both ways, and small ones meanwhile', async (opens) => {
  const c = opens();
  const text = 'ü'.repeat(1_500_000);
  const bytes = new Uint8Array(3_000_000).fill(255);
  const list = Array.from({ length: 50_000 }, (_, i) => ({ i, text: `text ${i}` }));
  const [one, two, three, small] = await Promise.all([c.echo(text), c.echo(bytes), c.echo(list), c.add(1, 2)]);
  assert.equal(one, text);
  assert.ok(Buffer.from(two).equals(Buffer.from(bytes)));
  assert.deepEqual(three, list);
  assert.equal(small, 3);
  await fails('MessageTooLargeError', c.echo('x'.repeat(4 * 2 ** 20)), 'message_max');
  assert.equal(connection(c).stats().links, 1);
});

both('what was written before close arrives', async (opens) => {
  const observer = opens();
  const c = opens();
  await c.add(1, 1);
  c.notify_keep('written', 'before close');
  c.notify_append('the last');
  connection(c).close('done');
  await eventually(async () => (await observer.appended()).includes('the last'));
});

both('nesting is limited on both sides', async (opens) => {
  const c = opens();
  const nested = (levels) => Array.from({ length: levels - 1 }).reduce((value) => [value], []);
  assert.deepEqual(await c.echo(nested(128)), nested(128));
  await fails('ArgumentError', c.echo(nested(129)), 'nested deeper');
  assert.deepEqual(await c.nested(128), nested(128));
  await fails('ServerError', c.nested(129));
  // A client that allows more than the server.
  const bold = opens({ nesting_max: 1000, timeout: 60 });
  await assert.rejects(bold.echo(nested(500)));
  assert.deepEqual(await bold.echo(nested(100)), nested(100));
});

both('calls above in_flight_max fail before they are sent', async (opens) => {
  const c = opens({ in_flight_max: 5, timeout: 60 });
  const naps = Array.from({ length: 5 }, () => c.nap(60).catch((e) => e.type));
  const e = await fails('MessageRefusedError', c.add(1, 1), 'in_flight_max');
  assert.equal(e.retryable, true);
  assert.equal(connection(c).stats().calls_in_flight, 5);
  connection(c).close();
  assert.deepEqual(await Promise.all(naps), Array(5).fill('ConnectionLostError'));
});

both_strict('requests that the server has no room for are ServerBusyError', async (opens) => {
  const c = opens({ symbols: { gate: () => new Promise((done) => gates.push(done)) } });
  const gates = [];
  const calls = Array.from({ length: 8 }, () => c.wait().then(() => 'done', (e) => `${e.type} ${e.retryable}`));
  await eventually(() => gates.length === 5);
  gates.forEach((done) => done());
  const answers = await Promise.all(calls);
  assert.deepEqual(answers, [...Array(5).fill('done'), ...Array(3).fill('ServerBusyError true')]);
});

both_strict('a message above the server\'s limit is an error, and ends the link', async (opens) => {
  const c = opens();
  assert.equal(await c.size('x'.repeat(90_000)), 90_000);
  await fails('MessageTooLargeError', c.size('x'.repeat(200_000)));
  assert.equal(await c.size('x'), 1);
  assert.equal(connection(c).stats().links, 2);
  await fails('MessageTooLargeError', c.make(200_000));
  assert.equal(await c.size('x'), 1);
});

both_strict('the reason of a server that closes for a limit arrives', async (opens) => {
  const reasons = [];
  const c = opens({ reconnect: false, close: (_, reason) => void reasons.push(reason) });
  await c.size('x');
  for (let i = 0; i < 3000; i += 1) c.notify_size('x');
  await eventually(() => reasons.length > 0);
  assert.match(reasons[0], /closed by the peer: too many calls/);
});

both('the server notifies groups, and of the latest state', async (opens) => {
  const heard = [];
  const clients = [1, 2, 3].map((n) => opens({ symbols: { said: (text) => void heard.push(`${n} ${text}`) } }));
  for (const c of clients) await c.enter();
  await clients[0].say('hello');
  await eventually(() => heard.length === 3);
  assert.deepEqual(heard.sort(), ['1 hello', '2 hello', '3 hello']);
  await clients[1].latest('said', 'newest');
  await eventually(() => heard.includes('2 newest'));
});
