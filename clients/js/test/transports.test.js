// The transports of Node.js besides TCP and plain WebSocket.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { connection, open } from '../dist/node.js';
import { fails, opener, serve } from './support.js';

/** The package ws says why; a WebSocket as in browsers does not. */
const uses_ws = !globalThis.WebSocket;

const folder = mkdtempSync(join(tmpdir(), 'yue-transports-'));
const at = (name) => join(folder, name);
let server;
let addresses;

/** The commands of the book's page on transports. */
function make_certificates() {
  const openssl = (...args) => execFileSync('openssl', args, { stdio: 'ignore' });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl('req', '-x509', ...key, '-days', '2', '-subj', '/CN=tests', '-keyout', at('ca.key'), '-out', at('ca.pem'));
  openssl('req', ...key, '-subj', '/CN=server', '-addext', 'subjectAltName=IP:127.0.0.1,DNS:game.example',
    '-keyout', at('server.key'), '-out', at('server.csr'));
  openssl('x509', '-req', '-in', at('server.csr'), '-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-days', '2',
    '-copy_extensions', 'copy', '-out', at('server.pem'));
}

before(async () => {
  make_certificates();
  const wanted = [`unix://${at('socket')}`, 'tls://127.0.0.1:0', 'wss://127.0.0.1:0/game'];
  server = await serve('server.lua', wanted, 3, { CERT: at('server.pem'), KEY: at('server.key') });
  addresses = Object.fromEntries(server.addresses.map((address) => [address.split(':')[0], address]));
});
after(async () => {
  await server?.stop();
  rmSync(folder, { recursive: true });
});

async function is_served(c) {
  assert.equal(await c.add(1, 2), 3);
  assert.equal(await c.call((x) => x + 1, 1), 2);
  assert.equal((await c.echo('x'.repeat(300_000))).length, 300_000);
}

test('a Unix socket', { timeout: 60_000 }, async (t) => {
  await is_served(opener(t, () => addresses.unix)());
  await fails('ConnectionRefusedError', open(`unix://${at('nobody')}`).f());
});

test('TLS, verified by an authority in a file or a text', { timeout: 60_000 }, async (t) => {
  const opens = opener(t, () => addresses.tls);
  await is_served(opens({ ca: at('ca.pem') }));
  await is_served(opens({ ca: readFileSync(at('ca.pem'), 'utf8'), server_name: 'game.example' }));
  await is_served(opens({ insecure: true }));
});

test('TLS refuses who is not verified, and bad files are errors', { timeout: 60_000 }, async (t) => {
  const opens = opener(t, () => addresses.tls);
  await fails('TLSError', opens().add(1, 2));
  await fails('TLSError', opens({ retry: true }).add(1, 2));
  await fails('AddressError', opens({ ca: at('missing.pem') }).add(1, 2), 'cannot read ca');
  // A client without TLS at a port with TLS.
  const plain = open(addresses.tls.replace('tls', 'tcp'), { timeout: 60 });
  t.after(() => connection(plain).close());
  await fails('ConnectionLostError', plain.add(1, 2));
});

test('WebSocket with TLS', { timeout: 60_000 }, async (t) => {
  // WebSockets take Node.js's own authorities.
  const opens = opener(t, () => addresses.wss);
  const e = await fails('ConnectionRefusedError', opens().add(1, 2));
  if (uses_ws) assert.match(e.msg, /certificate/);
  const program = `
    import { connection, open } from '${new URL('../dist/node.js', import.meta.url)}';
    const c = open(process.argv[1]);
    console.log(await c.add(1, 2));
    connection(c).close();`;
  const args = ['--input-type=module', '-e', program, addresses.wss];
  const printed = execFileSync(process.execPath, args, { env: { ...process.env, NODE_EXTRA_CA_CERTS: at('ca.pem') } });
  assert.equal(String(printed), '3\n');
});

test('a WebSocket path that is not served', { timeout: 60_000 }, async (t) => {
  const own = await serve('server.lua', ['ws://127.0.0.1:0/game']);
  t.after(() => own.stop());
  const c = open(own.addresses[0]);
  t.after(() => connection(c).close());
  assert.equal(await c.add(1, 2), 3);
  const e = await fails('ConnectionRefusedError', open(own.addresses[0].replace('/game', '/other')).add(1, 2));
  if (uses_ws) assert.match(e.msg, /404/);
});
