// What the tests share: servers, connections of both transports, and checks.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import { connection, open } from '../dist/node.js';

const folder = fileURLToPath(new URL('.', import.meta.url));

/** Starts a script of this folder by the program in the variable YUE; it prints an address for each line. */
export async function serve(script, args = [], addresses = 1, env = {}) {
  const program = process.env.YUE ?? 'yue';
  const child = spawn(program, [folder + script, ...args], {
    stdio: ['pipe', 'pipe', process.env.SHOW_LOG ? 'inherit' : 'ignore'],
    env: { ...process.env, ...env },
  });
  const failed = once(child, 'error').then(([error]) => {
    throw new Error(`cannot start ${program} (the variable YUE): ${error.message}`);
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const found = [];
  while (found.length < addresses) {
    const { value, done } = await Promise.race([lines.next(), failed]);
    if (done) throw new Error(`${script} ended before it had printed its addresses`);
    found.push(value);
  }
  failed.catch(() => {});
  const ended = once(child, 'exit');
  return {
    addresses: found,
    tcp: found[0],
    ws: `${found[0].replace('tcp://', 'ws://')}/`,
    child,
    async stop() {
      child.stdin.end();
      await ended;
      await refusal(found[0]);
    },
    async kill() {
      child.kill('SIGKILL');
      await ended;
      await refusal(found[0]);
    },
  };
}

/** Waits until nobody listens there: the kernel closes the sockets of an io_uring after the end of its process. */
async function refusal(address) {
  const port = Number(/^tcp:.*:(\d+)$/.exec(address)?.[1]);
  if (!port) return;
  const refuses = () => new Promise((done) => {
    const socket = connect(port, '127.0.0.1');
    socket.on('connect', () => {
      socket.destroy();
      done(false);
    });
    socket.on('error', () => done(true));
  });
  while (!(await refuses())) await pause(5);
}

/** Runs a test over TCP and over WebSocket; `opens(options)` returns the procedures of a new connection. */
export function over_both(server, name, run) {
  for (const transport of ['tcp', 'ws']) {
    test(`${name} (${transport})`, { timeout: 60_000 }, async (t) => {
      await run(opener(t, () => server()[transport]), t, () => server()[transport]);
    });
  }
}

/** Returns a function that opens connections, which the end of the test closes. Calls have time on a busy machine. */
export function opener(t, address) {
  return (options = {}) => {
    const c = open(address(), { log() {}, timeout: 60, ...options });
    t.after(() => connection(c).close());
    return c;
  };
}

/** Expects a failure of that type; returns the error. */
export async function fails(type, promise, text) {
  let error;
  try {
    await promise;
  } catch (failure) {
    error = failure;
  }
  assert.ok(error, `a ${type} was expected`);
  assert.equal(error.type, type, String(error.stack));
  if (text) assert.ok(error.msg.includes(text), `"${error.msg}" should contain "${text}"`);
  return error;
}

/** Waits until the condition holds, and returns its value. */
export async function eventually(condition, what = 'the condition') {
  const until = performance.now() + 50_000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert.ok(performance.now() < until, `${what} did not come true`);
    await pause(5);
  }
}

/** The listings of the README in that language. */
export function listings(language) {
  const text = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const all = [...text.matchAll(/^```(\w+)\n([^]*?)^```$/gm)];
  return all.filter((found) => found[1] === language).map((found) => found[2]);
}

/** The README's server as a script for `serve`. */
export function server_of(listing) {
  const code = listing.replace(':8080', ':0').replace('yue.listen', 'local listener = yue.listen');
  return `-- The server of the README.\n${code}print(listener:addr())\nio.stdout:flush()\nio.read '*a'\nos.exit(0)\n`;
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A promise that the test resolves. */
export function later() {
  let resolve;
  const promise = new Promise((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
