// The bundle in headless Chromium: `chromium`, or the program in the variable CHROMIUM. Pages post their results here.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { later, listings, serve, server_of } from './support.js';

const chromium = process.env.CHROMIUM ?? 'chromium';
const found = process.env.CHROMIUM || spawnSync(chromium, ['--version']).status === 0;
const skip = found ? false : `there is no ${chromium}`;
const limit = { timeout: 120_000, skip };

/** Shows a page in a browser until it posts to /result; returns what it has posted. Other paths call `on_post`. */
async function browse(t, html, query = '', on_post = {}) {
  const result = later();
  const pages = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://host');
    const body = (await request.toArray()).join('');
    if (request.method === 'POST') {
      if (pathname === '/result') result.resolve(body);
      else await on_post[pathname]();
      return response.end();
    }
    if (pathname === '/') return response.setHeader('content-type', 'text/html').end(html);
    if (pathname !== '/yue.js') return response.writeHead(404).end();
    response.setHeader('content-type', 'text/javascript').end(readFileSync(new URL('../dist/yue.js', import.meta.url)));
  }).listen(0, '127.0.0.1');
  t.after(() => pages.close());
  await once(pages, 'listening');

  const profile = mkdtempSync(join(tmpdir(), 'yue-chromium-'));
  const page = `http://127.0.0.1:${pages.address().port}/${query}`;
  const options = ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'];
  const child = spawn(chromium, [...options, `--user-data-dir=${profile}`, '--js-flags=--expose-gc', page], {
    stdio: 'ignore',
    detached: true,
  });
  const ended = once(child, 'exit');
  t.after(async () => {
    // The browser is a group of processes.
    if (child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
    await ended;
    rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
    pages.closeAllConnections();
  });
  return Promise.race([result.promise, ended.then(([code]) => assert.fail(`the browser ended with ${code}`))]);
}

test('a page calls, is called, and survives a restart of its server', limit, async (t) => {
  const env = { ORIGINS: '*' };
  let server = await serve('server.lua', [], 1, env);
  t.after(() => server.stop());
  const { tcp, ws } = server;
  const html = readFileSync(new URL('browser.html', import.meta.url));
  const posted = await browse(t, html, `?address=${encodeURIComponent(ws)}`, {
    '/stop': () => server.kill(),
    '/start': async () => { server = await serve('server.lua', [tcp], 1, env); },
  });
  const { error, held } = JSON.parse(posted);
  assert.equal(error, undefined, `it held: ${held.join(', ')}`);
  assert.equal(held.at(-1), 'an address of the page\'s own server');
});

test('the page of the README', limit, async (t) => {
  const work = mkdtempSync(new URL('readme-page-', import.meta.url).pathname);
  t.after(() => rmSync(work, { recursive: true }));
  writeFileSync(join(work, 'server.lua'), server_of(listings('lua')[0]));
  const server = await serve(join(work.split('/').at(-1), 'server.lua'));
  t.after(() => server.stop());
  const [html] = listings('html');
  const poster = `<script>
    const timer = setInterval(() => {
      if (!document.body.innerText.trim()) return;
      clearInterval(timer);
      fetch('/result', { method: 'POST', body: document.body.innerText.trim() });
    }, 5);
  </script>`;
  const posted = await browse(t, html.replace('ws://127.0.0.1:8080/', server.ws) + poster);
  assert.equal(posted, /append\(.*\);\s+\/\/ (.*)$/m.exec(html)[1]);
});
