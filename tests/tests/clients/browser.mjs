// Runs the pages of examples/ in a headless Chromium, against real servers that are restarted under them.
//
//   node browser.mjs YUE CHROMIUM NODE_MODULES [FOLDER FOR SCREENSHOTS]
//
// `ci/browser` installs what it needs and runs it. It prints the arena's figures.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const [yue, chromium, modules, screenshots] = process.argv.slice(2);
const puppeteer = createRequire(path.join(modules, 'index.js'))('puppeteer-core');
const examples = fileURLToPath(new URL('../../../examples/', import.meta.url));
const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'yue-browser-'));
const LONG_MS = 30_000;

// --- Programs

const programs = new Set();

async function start(...args) {
  const program = spawn(yue, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  programs.add(program);
  program.first_line = (await once(createInterface(program.stdout), 'line'))[0];
  return program;
}

async function end(program, signal = 'SIGTERM') {
  const ended = once(program, 'exit');
  program.kill(signal);
  await ended;
  programs.delete(program);
}

/** Starts an example's server, on two loops; at an address that an earlier one had, if that is given. */
async function serve(folder, url = 'http://127.0.0.1:0', ...args) {
  const server = await start('-c', '2', `${examples}${folder}/server.lua`, url.replace('http', 'tcp'), ...args);
  server.url = server.first_line.replace('serving at ', '');
  return server;
}

// --- Pages

const browser = await puppeteer.launch({ executablePath: chromium, args: ['--no-sandbox', '--disable-gpu'] });
const complaints = [];

/** A page of its own, as in another browser. */
async function open(url, prepare) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  page.setDefaultTimeout(LONG_MS);
  await page.setViewport({ width: 1280, height: 800 });
  page.on('pageerror', (error) => complaints.push(`${url}: ${error.stack}`));
  page.on('console', (message) => {
    // Chromium itself reports each attempt to connect to a server that is down.
    if (message.type() === 'error' && !message.text().includes('WebSocket')) complaints.push(`${url}: ${message.text()}`);
  });
  if (prepare) await page.evaluateOnNewDocument(...prepare);
  await page.goto(url);
  return page;
}

const text_of = (page, selector) => page.$eval(selector, (element) => element.textContent);

/** Waits until the selected elements, together, contain a text. */
const sees = (page, selector, text) => page.waitForFunction(
  (selector, text) => [...document.querySelectorAll(selector)].some((element) => element.textContent.includes(text)),
  {}, selector, text);

const has_state = (page, state) => page.waitForFunction((state) => document.body.dataset.state === state, {}, state);

/** Pictures of a page in light and dark, at the width of a phone and of a desk. */
async function picture(page, name) {
  if (!screenshots) return;
  for (const scheme of ['light', 'dark']) {
    for (const [width, height] of [[390, 844], [1600, 900]]) {
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
      await page.setViewport({ width, height });
      await new Promise((resolve) => setTimeout(resolve, 300));
      await page.screenshot({ path: path.join(screenshots, `${name}-${scheme}-${width}.png`) });
    }
  }
}

// --- The tests

async function test_chat() {
  let server = await serve('chat');
  const enter = async (name) => {
    const page = await open(server.url);
    await page.type('#name', name);
    await page.click('#join button');
    return page;
  };
  const say = async (page, text) => {
    await page.type('#text', text);
    await page.keyboard.press('Enter');
  };
  const frodo = await enter('Frodo');
  await sees(frodo, '#members', 'Frodo (you)');
  const sam = await enter('Sam');
  await sees(frodo, '#members', 'Sam');
  await sees(frodo, '#lines', 'Sam came in');

  // What others type is text, never HTML.
  await say(frodo, 'Good morning, <b>Sam</b>!');
  await sees(sam, '#lines .other .text', 'Good morning, <b>Sam</b>!');
  await say(sam, 'Good morning, Mr Frodo.');
  await sees(frodo, '#lines .other .text', 'Good morning, Mr Frodo.');
  await picture(frodo, 'chat');

  const other = await enter('Sam');
  await sees(other, '#refusal', 'there is a Sam in this room already');
  await picture(other, 'chat-door');
  await other.close();

  // A reload gets the name and the history back.
  await sam.reload();
  await sees(sam, '#lines .own .text', 'Good morning, Mr Frodo.');

  // The browser is offline for a moment; the connection survives.
  await sam.setOfflineMode(true);
  await has_state(sam, 'offline');
  await sam.setOfflineMode(false);
  await has_state(sam, 'online');

  // The server is killed; nothing that is typed meanwhile is lost. The pages connect again and join by themselves.
  await end(server, 'SIGKILL');
  await has_state(frodo, 'reconnecting');
  await has_state(sam, 'reconnecting');
  await say(frodo, 'Are you there?');
  server = await serve('chat', server.url);
  await has_state(frodo, 'online');
  await sees(frodo, '#members', 'Sam');
  await frodo.focus('#text');
  await frodo.keyboard.press('Enter');
  await sees(sam, '#lines .other .text', 'Are you there?');

  await frodo.type('#new-room-name', 'kitchen');
  await frodo.keyboard.press('Enter');
  await sees(sam, '#rooms', 'kitchen');
  await sees(sam, '#lines', 'Frodo left');
  await end(server);
}

async function test_arena() {
  const file = path.join(temporary, 'players.json');
  const token = 'the token of an earlier login';
  fs.writeFileSync(file, JSON.stringify({ [token]: { name: 'Frodo', score: 41, seen: Date.now() / 1000 } }));
  let server = await serve('arena', undefined, `players=${file}`);
  const bots = await start(`${examples}arena/bots.lua`, `${server.url.replace('http', 'ws')}/rpc`, '200');
  const frodo = await open(server.url, [(token) => {
    sessionStorage.name = 'Frodo';
    sessionStorage.token ??= token;
  }, token]);
  const score = async (page) => Number((await text_of(page, '#scores .me b')));
  await sees(frodo, '#scores .me', 'Frodo');
  assert((await score(frodo)) >= 41, 'the score of the saved file');

  const sam = await open(server.url);
  await sam.type('#name', 'Sam');
  await sam.click('#enter button');
  await sees(sam, '#players', '202');
  await sam.bringToFront();
  await sam.keyboard.down('ArrowRight');
  await sam.waitForFunction(() => Number(document.getElementById('frames').textContent) > 0);
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const figures = {};
  for (const id of ['players', 'ping', 'ticks', 'bytes', 'frames']) figures[id] = await text_of(sam, `#${id}`);
  console.log(`arena: ${figures.players} players, ping ${figures.ping}, ${figures.ticks} ticks/s, `
    + `${figures.bytes} kB/s for each client, ${figures.frames} frames/s`);
  // Wide limits: the machine may be busy.
  assert(figures.ticks > 5 && figures.ticks < 60, 'ticks');
  assert(figures.bytes > 5 && figures.bytes < 100, 'bytes');
  assert(figures.frames > 1, 'frames');
  await picture(sam, 'arena');

  // The server is restarted: all log in again, and have their scores.
  await end(server);
  await has_state(frodo, 'reconnecting');
  await picture(sam, 'arena-reconnecting');
  server = await serve('arena', server.url, `players=${file}`);
  await has_state(frodo, 'online');
  await has_state(sam, 'online');
  await frodo.bringToFront();
  await sees(frodo, '#players', '202');
  assert((await score(frodo)) >= 41, 'the score after the restart');
  await end(bots);
  await sees(frodo, '#players', '2');
  await end(server);
}

async function test_characters() {
  let server = await serve('characters');
  const page = await open(server.url);
  const shown = (id) => page.waitForSelector(`#${id}:not([hidden])`);
  await page.click('#start button');
  await shown('name');
  await page.type('#name-input', '7');
  await page.click('#name button');
  await sees(page, '#name .problem', 'a name has 2 to 20 letters');
  await page.$eval('#name-input', (input) => { input.value = 'Galadriel'; });
  await page.click('#name button');
  await shown('class');
  await page.click('input[value=mage]');
  await picture(page, 'characters-class');
  await page.click('#class > button');
  await shown('points');
  await page.click('#points > button');
  await sees(page, '#points .problem', 'spend exactly 10 points, not 0');
  for (let i = 0; i < 12; i++) await page.click('[aria-label="more wisdom"]');
  await sees(page, '#points-left', '0 of 10 points left');
  await picture(page, 'characters-points');
  await page.click('#points > button');
  await shown('confirm');
  await sees(page, '#character-points', '10');
  await page.click('#confirm [value=yes]');
  await sees(page, '#end', 'Galadriel the mage enters the world.');

  // A server that dies in the middle of the call.
  await page.click('#start button');
  await shown('name');
  await end(server, 'SIGKILL');
  await sees(page, '#end', 'It was interrupted');
  server = await serve('characters', server.url);
  await has_state(page, 'online');
  await page.click('#start button');
  await shown('name');
  await end(server, 'SIGKILL'); // a graceful end would wait for the call
}

async function test_development() {
  const folder = path.join(temporary, 'live');
  const write = (name, text) => fs.writeFileSync(path.join(folder, name), text);
  fs.mkdirSync(path.join(folder, 'page'), { recursive: true });
  write('page/index.html', '<!doctype html><link rel="icon" href="data:,"><title>live</title>');
  write('rules.lua', 'return 1');
  write('server.lua', `
    local yue = require 'yue'
    require 'rules'
    local server = yue.http.serve('tcp://127.0.0.1:0', {
      ['GET /fail'] = function() error 'no luck today' end,
      ['GET /*'] = yue.http.files(arg[0]:match '.*/' .. 'page'),
    })
    print('serving at ' .. server:url())`);
  const server = await start('dev', folder);
  const url = server.first_line.replace('serving at ', '');
  const page = await open(url);
  const shows = (text) => page.waitForFunction(
    (text) => (document.querySelector('yue-error')?.shadowRoot.textContent ?? '').includes(text), {}, text);
  const shows_nothing = () => page.waitForFunction(() => !document.querySelector('yue-error'));
  const fail = () => fetch(`${url}/fail`);

  await fail();
  await shows('the handler of GET /fail failed');
  await fail();
  await fail();
  await shows('3 times: ');
  // The error of a reload stands beside it, and both are gone after the next one.
  write('rules.lua', 'return oops(');
  await shows('rules.lua:1: ');
  await shows('no luck today');
  await picture(page, 'development');
  write('rules.lua', 'return 2');
  await shows_nothing();

  // A click closes the errors, also on pages that are opened later.
  await fail();
  await shows('no luck today');
  await page.evaluate(() => document.querySelector('yue-error').shadowRoot.querySelector('button').click());
  await shows_nothing();
  await page.reload();
  await new Promise((resolve) => setTimeout(resolve, 3500));
  await shows_nothing();
  await fail();
  await shows('no luck today');
  await end(server, 'SIGINT');
}

try {
  for (const test of [test_chat, test_arena, test_characters, test_development]) {
    const began = performance.now();
    await test();
    assert.deepEqual(complaints, []);
    console.log(`${test.name}: ${((performance.now() - began) / 1000).toFixed(1)} s`);
  }
} finally {
  if (complaints.length) console.log(complaints.join('\n'));
  for (const program of programs) program.kill('SIGKILL');
  await browser.close();
  fs.rmSync(temporary, { recursive: true });
}
