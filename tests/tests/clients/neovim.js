// npm's neovim, which takes the server for an editor: calls, notifies, and answers a call made in mid-call.
'use strict';
const assert = require('assert');
const net = require('net');
const { attach } = require('neovim');

const [host, port] = process.argv.slice(2);
const socket = net.connect(Number(port), host, async () => {
  // Its first call is nvim_get_api_info.
  const editor = await attach({ reader: socket, writer: socket });
  editor.on('request', (method, [a, b], response) => {
    assert.strictEqual(method, 'client_add');
    response.send(a + b);
  });
  assert.strictEqual(await editor.request('hello', ['neovim']), 'hello neovim');
  assert.strictEqual(await editor.request('ask_back', [20, 22]), 'the client says 42');
  await assert.rejects(editor.request('fail', []), (error) => /this went wrong on the server/.test(error.message));
  editor.notify('note', ['noted by neovim']);
  assert((await editor.request('noted', [])).includes('noted by neovim'));
  // The package takes the console for its own log.
  process.stdout.write('neovim: all went well\n');
  process.exit(0);
});
process.on('unhandledRejection', (error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
