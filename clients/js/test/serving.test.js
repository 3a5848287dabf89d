// The server calls functions of the client.
import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import { ArgumentError, connection, results } from '../dist/node.js';
import { eventually, later, over_both, serve } from './support.js';

let server;
before(async () => {
  server = await serve('server.lua');
});
after(() => server.stop());
const both = (name, run) => over_both(() => server, name, run);

both('the server calls functions, nested ones too, and gets their results', async (opens) => {
  const c = opens({
    symbols: {
      add: (a, b) => a + b,
      later: async (x) => `later ${x}`,
      nothing: () => {},
      two: () => results(10, 'gold'),
      none: () => results(),
      world: { size: 3, get_size() { return this.size; } },
      count: (...args) => args.length,
    },
  });
  assert.equal(await c.ask('add', 1, 2), 3);
  assert.equal(await c.ask('later', 'x'), 'later x');
  assert.deepEqual(await connection(c).call('ask', ['nothing'], { all: true }), []);
  assert.deepEqual(await connection(c).call('ask', ['none'], { all: true }), []);
  assert.deepEqual(await c.ask('two'), [10, 'gold']);
  assert.equal(await c.ask('world.get_size'), 3);
  assert.equal(await c.ask('count', null, 1, null), 3);
});

both('only own functions of the symbols can be called', async (opens) => {
  class Game {
    constructor() { this.own = () => 'own'; }
    inherited() { return 'inherited'; }
  }
  let got = 0;
  const c = opens({
    symbols: {
      game: new Game(),
      _private: () => 'secret',
      _nested: { f: () => 'secret' },
      nested: { _hidden: () => 'secret', f: () => 'f' },
      text: 'text',
      list: [() => 'listed'],
      with_properties: Object.assign(() => {}, { inner: () => 'inner' }),
      get getter() { got += 1; return () => 'got'; },
      nothing: null,
    },
  });
  assert.equal(await c.ask('nested.f'), 'f');
  assert.equal(await c.ask('game.own'), 'own');
  const names = [
    'constructor', '__proto__', 'toString', 'hasOwnProperty', 'valueOf', '__defineGetter__', 'nested.constructor',
    'nested.toString', 'constructor.constructor', '__proto__.toString', 'nested.__proto__.toString', 'game.inherited',
    'game.constructor', '_private', '_nested.f', 'nested._hidden', 'text', 'text.at', 'list.push', 'list.at',
    'nothing.x',
    'with_properties.inner', 'with_properties.call', 'getter', '', '.', 'nested.', '.nested', 'nested..f', 'missing',
    'prototype', 'console.log', 'process.exit', 'x'.repeat(5000),
  ];
  for (const name of names) {
    const [type, , , retryable] = await c.try(name);
    assert.deepEqual([type, retryable], ['NoMethodError', false], name);
  }
  assert.equal(got, 0);
});

both('symbols can change while the connection lasts', async (opens) => {
  const c = opens({ symbols: { f: () => 'first' } });
  assert.equal(await c.ask('f'), 'first');
  connection(c).namespace.f = () => 'second';
  assert.equal(await c.ask('f'), 'second');
  connection(c).import({ late: () => 'imported' });
  assert.deepEqual([await c.ask('late'), await c.ask('f')], ['imported', 'second']);
});

both('what a function throws arrives with its type, message and value', async (opens) => {
  const logged = [];
  const c = opens({
    log: (text, error) => logged.push([text, error]),
    symbols: {
      error: () => { throw new TypeError('no such dish'); },
      text: async () => { throw 'as text'; },
      value: () => { throw { code: 3 }; },
      typed: () => { throw new ArgumentError('a number is needed', { value: { position: 1 }, retryable: true }); },
      unsendable: () => [1, Symbol('s')],
      unsendable_value: () => { throw { s: new Map() }; },
    },
  });
  const failing = async (name) => (await c.try(name)).slice(0, 4);
  assert.deepEqual(await failing('error'), ['RuntimeError', 'no such dish', null, false]);
  assert.deepEqual(await failing('text'), ['RuntimeError', 'as text', null, false]);
  const value = await failing('value');
  assert.deepEqual([value[0], value[2]], ['RuntimeError', { code: 3 }]);
  assert.deepEqual(await failing('typed'), ['ArgumentError', 'a number is needed', { position: 1 }, true]);
  const [type, text] = await failing('unsendable');
  assert.deepEqual([type, text], ['ServerError', 'results[0][1]: a symbol cannot be sent']);
  assert.equal((await failing('unsendable_value'))[0], 'ServerError');
  assert.ok(logged.length >= 6 && logged[0][0].includes('the handler of error failed'));
});

both('a stack is sent only with the option traceback', async (opens) => {
  for (const traceback of [false, true]) {
    const heard = later();
    const c = opens({
      traceback,
      symbols: { fail: () => { throw new Error('x'); }, hear: heard.resolve },
    });
    await c.ask('fail').catch((e) => heard.resolve(e));
    const e = await heard.promise;
    assert.equal(e.msg, 'x');
    assert.equal(e.traceback, undefined);
  }
});

both('calls go both ways at once, in the middle of a call', async (opens) => {
  const c = opens({ symbols: { level: async (n) => (n === 0 ? 0 : 1 + (await c.ask('level', n - 1))) } });
  assert.equal(await c.ask('level', 20), 20);
});

both('notifications run in the order in which they were sent', async (opens) => {
  const heard = [];
  const c = opens({ symbols: { hear: (n) => void heard.push(n) } });
  for (let i = 0; i < 500; i += 1) c.notify_tell('hear', i);
  await eventually(() => heard.length === 500);
  assert.deepEqual(heard, Array.from({ length: 500 }, (_, i) => i));
});

both('the server can list the functions, without private ones', async (opens) => {
  const shared = { g() {} };
  shared.again = shared;
  const c = opens({ symbols: { f() {}, _private() {}, nested: shared, text: 'x' } });
  assert.deepEqual(await c.describe_me(), ['f', 'nested.g']);
});

both('requests above in_flight_max are ServerBusyError', async (opens) => {
  const gate = later();
  const c = opens({ in_flight_max: 2, symbols: { wait: () => gate.promise } });
  c.notify_ask('wait');
  c.notify_ask('wait');
  const running = () => connection(c).stats().requests_in_flight;
  await eventually(() => running() === 2);
  const [type, , , retryable] = await c.try('wait');
  assert.deepEqual([type, retryable], ['ServerBusyError', true]);
  gate.resolve(1);
  await eventually(() => running() === 0);
  assert.deepEqual((await c.try('wait')).slice(0, 2), ['ok', 1]);
});
