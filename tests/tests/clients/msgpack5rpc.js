// npm's msgpack5rpc: calls, notifies, and answers a call that the server makes in mid-call.
'use strict';
const assert = require('assert');
const net = require('net');
const Session = require('msgpack5rpc');

const [host, port] = process.argv.slice(2);
const socket = net.connect(Number(port), host, async () => {
  const session = new Session([]);
  session.attach(socket, socket);
  const call = (method, ...values) => new Promise((resolve, reject) =>
    session.request(method, values, (error, result) => (error ? reject(error) : resolve(result))));

  session.on('request', (method, [a, b], response) => {
    assert.strictEqual(method, 'client_add');
    response.send(a + b);
  });
  assert.strictEqual(await call('hello', 'node'), 'hello node');
  assert.strictEqual(await call('math.add', 20, 22), 42);
  const sums = await Promise.all([...Array(1000).keys()].map((i) => call('math.add', i, i)));
  assert.deepStrictEqual(sums, [...Array(1000).keys()].map((i) => 2 * i));
  assert.strictEqual(await call('ask_back', 20, 22), 'the client says 42');
  await assert.rejects(call('fail'), (error) => /this went wrong on the server/.test(error[1]));
  await assert.rejects(call('_secret'), (error) => /is private/.test(error[1]));
  session.notify('note', ['noted by msgpack5rpc']);
  assert((await call('noted')).includes('noted by msgpack5rpc'));
  console.log('msgpack5rpc: all went well');
  process.exit(0);
});
process.on('unhandledRejection', (error) => { console.error(error); process.exit(1); });
