// The package as npm packs it, installed where nothing else is.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const folder = fileURLToPath(new URL('..', import.meta.url));
const tsc = join(folder, 'node_modules/typescript/bin/tsc');
const run = promisify(execFile);

/** Runs a program, by default beside the installed package, and returns how it failed. */
async function failure_of(code, place = work) {
  const file = join(place, 'program.js');
  writeFileSync(file, code);
  const { code: status, stderr } = await run(process.execPath, [file], { cwd: work }).catch((failure) => failure);
  assert.equal(status, 1);
  return stderr;
}

let work;
before(async () => {
  work = mkdtempSync(join(tmpdir(), 'yue-client-'));
  await run('npm', ['pack', '--silent', '--pack-destination', work], { cwd: folder });
  const [tarball] = readdirSync(work);
  writeFileSync(join(work, 'package.json'), '{ "type": "module", "private": true }\n');
  const quiet = ['--silent', '--offline', '--no-audit', '--no-fund'];
  await run('npm', ['install', ...quiet, `./${tarball}`], { cwd: work });
}, { timeout: 120_000 });
after(() => rmSync(work, { recursive: true }));

for (const [module, resolution] of [['nodenext', 'nodenext'], ['esnext', 'bundler']]) {
  test(`its types need no other package (${resolution})`, { timeout: 120_000 }, async () => {
    const file = join(work, `${resolution}.ts`);
    writeFileSync(file, `
      import { ExtData, TimeoutError, YueError, connection, open, results, type Options } from 'yue-client';
      import { open as open_in_browser } from 'yue-client/browser';
      interface World { add(a: number, b: number): Promise<number> }
      const options: Options = { symbols: { two: () => results(1, new ExtData(7, new Uint8Array(2))) } };
      const c = open<World>('tcp://127.0.0.1:8080', options);
      export const sum: number = await c.timed_add(0.5, 1, 2).catch((error: unknown) => {
        if (error instanceof TimeoutError || (error instanceof YueError && error.retryable)) return 0;
        throw error;
      });
      // @ts-expect-error: the server takes numbers
      await c.add('1', 2);
      export const [type, data]: [number, Uint8Array] = [new ExtData(7, new Uint8Array(2)).type, new Uint8Array(2)];
      connection(c).close();
      export const anything: string = await open_in_browser('/game').world.join('x');
    `);
    const { stdout } = await run(process.execPath, [
      tsc, '--strict', '--skipLibCheck', 'false', '--noEmit', '--target', 'es2022',
      '--module', module, '--moduleResolution', resolution, file,
    ], { cwd: work }).catch((failure) => failure);
    assert.equal(stdout, '');
  });
}

test('an error that nobody catches is readable', { timeout: 60_000 }, async () => {
  const stderr = await failure_of(`
    import { open } from 'yue-client';
    await open('tcp://127.0.0.1:1').add(1, 2);
  `);
  assert.match(stderr, /^ConnectionRefusedError: cannot connect/m);
  assert.doesNotMatch(stderr, /\[ConnectionRefusedError\]/);
  for (const line of stderr.split('\n')) assert.ok(line.length < 200, line);
});

test('WebSocket in Node.js 20 is that of a package beside the program', { timeout: 60_000 }, async () => {
  const place = mkdtempSync(join(tmpdir(), 'yue-client-'));
  after(() => rmSync(place, { recursive: true }));
  mkdirSync(join(place, 'node_modules'));
  // As npm installs a folder.
  symlinkSync(join(work, 'node_modules/yue-client'), join(place, 'node_modules/yue-client'));
  writeFileSync(join(place, 'package.json'), '{ "type": "module" }\n');
  const program = `
    import { open } from 'yue-client';
    delete globalThis.WebSocket;
    await open('ws://127.0.0.1:1/').add(1, 2);
  `;
  assert.match(await failure_of(program, place), /^AddressError: .*npm install ws/m);
  symlinkSync(join(folder, 'node_modules/ws'), join(place, 'node_modules/ws'));
  assert.match(await failure_of(program, place), /^ConnectionRefusedError: /m);
});
