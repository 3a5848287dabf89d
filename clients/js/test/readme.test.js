// The listings of the README: programs print what their comments say, and the typed one compiles.
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { listings, serve, server_of } from './support.js';

const folder = fileURLToPath(new URL('..', import.meta.url));

/** What the comments of a listing say that it prints. */
function printed(code) {
  return code.split('\n').flatMap((line) => {
    const comment = /^\/\/ (.*)$|^.*console\.log\(.*\);\s+\/\/ (.*)$/.exec(line);
    return comment ? [comment[1] ?? comment[2]] : [];
  });
}

test('programs print what their comments say', { timeout: 60_000 }, async (t) => {
  const [server_code] = listings('lua');
  // In this package, so that its name is found.
  const work = mkdtempSync(join(folder, 'test/readme-'));
  t.after(() => rmSync(work, { recursive: true }));
  writeFileSync(join(work, 'server.lua'), server_of(server_code));
  const server = await serve(`${work.slice(join(folder, 'test/').length)}/server.lua`);
  t.after(() => server.stop());
  const programs = listings('js');
  assert.ok(programs.length >= 3);
  for (const [i, code] of programs.entries()) {
    const file = join(work, `program${i}.js`);
    writeFileSync(file, code.replaceAll('tcp://127.0.0.1:8080', server.tcp));
    const { stdout } = await promisify(execFile)(process.execPath, [file], { cwd: folder });
    const expected = printed(code);
    assert.ok(expected.length >= 2, code);
    assert.deepEqual(stdout.trim().split('\n'), expected);
  }
});

test('types: what must compile does, and nothing else', { timeout: 120_000 }, async (t) => {
  const work = mkdtempSync(join(folder, 'test/types/made-'));
  t.after(() => rmSync(work, { recursive: true }));
  writeFileSync(join(work, 'readme.ts'), `${listings('ts').join('\n')}\nexport {};\n`);
  // With the interface that `yue types` writes for a running server.
  const server = await serve('server.lua');
  t.after(() => server.stop());
  await promisify(execFile)(process.env.YUE ?? 'yue', ['types', server.tcp, '-o', join(work, 'world.ts')]);
  writeFileSync(join(work, 'uses.ts'), `
    import { open } from 'yue-client';
    import type { World } from './world.js';
    const c = open<World>('tcp://127.0.0.1:8080');
    export const sums: number[] = [await c.add(1, 2), await c.timed_add(0.5, 1, 2)];
    export const deepest: unknown = await c.deep.er.est('x');
    // @ts-expect-error: the server takes numbers
    await c.add('1', 2);
    // @ts-expect-error: the server has no such function
    await c.deep.est('x');
  `);
  const tsc = spawnSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'test/types'], { cwd: folder });
  assert.equal(String(tsc.stdout), '');
  assert.equal(tsc.status, 0);
});

test('the bundle is as small as the README says, and imports nothing', async () => {
  const { gzipSync } = await import('node:zlib');
  const bundle = readFileSync(join(folder, 'dist/yue.js'));
  assert.ok(gzipSync(bundle, { level: 9 }).length < 15_000);
  assert.doesNotMatch(String(bundle), /(^|[;}])import[ {*"']|\bimport\(['"`]|\brequire\(/m);
  assert.match(readFileSync(join(folder, 'README.md'), 'utf8'), /one file of 15 kB \(gzip\)/);
});
