// The page of the arena. The server moves the world 20 times a second; the page draws it at the display's own rate, a
// tenth of a second in the past, so that there is always a position before and after the moment that it draws.
import { open } from './yue.js';

const element = (id) => document.getElementById(id);
const DELAY_TICKS = 2;

// Who we are: kept for this tab, so that a reload is the same player, and another tab is another one.
const saved = sessionStorage;

let world; // what the server told us: { id, width, height, ticks_per_s, coins }; undefined until it has
let players = new Map(); // id -> { name, score }
let snapshots = []; // the last positions: { tick, places: id -> [x, y] }
let clock_ms; // when tick 0 would have arrived, by performance.now(), had it travelled as fast as the fastest

// --- The connection

const address = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/rpc`;
const symbols = {
  // The server asks who we are: at each connection, so also when it was restarted. Our score comes back by the token.
  login() {
    world = undefined;
    return { name: saved.name, token: saved.token };
  },

  // The whole world, once for each connection. What comes before it is in it already; what comes after it is a change.
  world(new_world) {
    world = new_world;
    saved.token = world.token;
    players = new Map(world.players.map((player) => [player.id, player]));
    snapshots = [];
    clock_ms = undefined;
    steering = '0,0';
    element('welcome').hidden = true;
    element('problem').textContent = '';
    show_scores();
  },

  // All positions of a tick: id, x, y, id, x, y, …
  positions(tick, list) {
    if (!world) return;
    const places = new Map();
    for (let i = 0; i < list.length; i += 3) places.set(list[i], [list[i + 1], list[i + 2]]);
    snapshots.push({ tick, places });
    if (snapshots.length > 20) snapshots.shift();
    // Messages are late by different times. The fastest one sets the clock; slowly it forgets.
    const late = performance.now() - tick * 1000 / world.ticks_per_s;
    clock_ms = clock_ms === undefined ? late : Math.min(late, clock_ms + (late - clock_ms) * 0.01);
  },

  coin(index, x, y, id, score) {
    if (!world) return;
    world.coins[index - 1] = { x, y }; // Lua counts from 1
    players.get(id).score = score;
    sparks.push({ x, y, began: performance.now() });
    show_scores_soon();
  },

  joined(id, name, score) {
    players.set(id, { id, name, score });
    show_scores_soon();
  },

  left(id) {
    players.delete(id);
    show_scores_soon();
  },
};

let server;

function connect() {
  server = open(address, {
    retry: true, // the server may be down at first
    symbols,
    accept() {
      show_state('online');
      return true;
    },
    // The link is lost. A true result makes it again.
    close(_, reason) {
      show_state('reconnecting');
      element('problem').textContent = reason;
      return true;
    },
  });
  show_state('connecting');
  measure(); // The first call connects.
}

element('name').value = saved.name ?? '';
element('enter').addEventListener('submit', (event) => {
  event.preventDefault();
  saved.name = element('name').value.trim();
  if (!saved.name) return;
  if (!server) connect(); // otherwise the next attempt has the new name
  element('arena').focus();
});

let link; // connecting, online or reconnecting

function show_state(new_link = link) {
  link = new_link;
  if (!link) return; // nobody has pressed Play yet
  const state = navigator.onLine ? link : 'offline'; // the whole browser is
  const texts = { connecting: 'Connecting…', online: 'Online', reconnecting: 'Reconnecting…', offline: 'Offline' };
  element('state').textContent = texts[state];
  document.body.dataset.state = state;
  if (state !== 'online') for (const figure of document.querySelectorAll('#hud dd')) figure.textContent = '–';
}

addEventListener('offline', () => show_state());
addEventListener('online', () => show_state());

// --- Steering: we send a direction when it changes, never a position

const KEYS = {
  ArrowUp: [0, -1], KeyW: [0, -1], ArrowDown: [0, 1], KeyS: [0, 1],
  ArrowLeft: [-1, 0], KeyA: [-1, 0], ArrowRight: [1, 0], KeyD: [1, 0],
};
const pressed = new Set();
let pointer; // where it is held, in the canvas
let steering = '0,0';

function direction() {
  if (pointer) {
    const me = place_of(world.id);
    if (!me) return [0, 0];
    const dx = (pointer.x - view.x) / view.scale - me[0], dy = (pointer.y - view.y) / view.scale - me[1];
    const distance = Math.hypot(dx, dy);
    return distance < 8 ? [0, 0] : [dx / distance, dy / distance];
  }
  let dx = 0, dy = 0;
  for (const code of pressed) [dx, dy] = [dx + KEYS[code][0], dy + KEYS[code][1]];
  return [Math.sign(dx), Math.sign(dy)];
}

setInterval(() => {
  if (!world || document.body.dataset.state !== 'online') return;
  const [dx, dy] = direction().map((part) => Math.round(part * 100) / 100);
  if (`${dx},${dy}` === steering) return;
  steering = `${dx},${dy}`;
  server.notify_steer(dx, dy);
}, 50);

const canvas = element('arena');
canvas.addEventListener('keydown', (event) => {
  if (!KEYS[event.code]) return;
  pressed.add(event.code);
  event.preventDefault();
});
canvas.addEventListener('keyup', (event) => pressed.delete(event.code));
canvas.addEventListener('blur', () => pressed.clear());
canvas.addEventListener('pointerdown', (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointer = { x: event.clientX, y: event.clientY };
});
canvas.addEventListener('pointermove', (event) => {
  if (pointer) pointer = { x: event.clientX, y: event.clientY };
});
for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => { pointer = undefined; });

// --- Drawing

const context = canvas.getContext('2d');
let colours; // from the style sheet, for light or dark
let view = { x: 0, y: 0, scale: 1 }; // world to canvas
let sparks = []; // coins that were just collected

function read_colours() {
  const style = getComputedStyle(document.documentElement);
  colours = Object.fromEntries(['field', 'grid', 'text', 'coin', 'coin-edge', 'accent', 'player-light', 'player-edge']
    .map((name) => [name, style.getPropertyValue(`--${name}`)]));
}
read_colours();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', read_colours);

// The two snapshots around the moment that is drawn, and how much of the time between them has passed.
let before, after, part;

function choose_snapshots(now) {
  const tick = (now - clock_ms) * world.ticks_per_s / 1000 - DELAY_TICKS;
  const next = snapshots.findIndex((snapshot) => snapshot.tick > tick);
  after = snapshots[next] ?? snapshots.at(-1);
  before = next > 0 ? snapshots[next - 1] : after;
  part = after === before ? 0 : (tick - before.tick) / (after.tick - before.tick);
}

/** Where a player is at that moment. */
function place_of(id) {
  const to = after?.places.get(id);
  const from = before?.places.get(id) ?? to;
  return to && [from[0] + (to[0] - from[0]) * part, from[1] + (to[1] - from[1]) * part];
}

/** Shows the whole arena, below the figures; where it would be too small, as on a phone, a part of it around us. */
function place_camera(width, height) {
  const top = element('hud').getBoundingClientRect().bottom + 12;
  height -= top;
  const scale = Math.max(Math.min(width / world.width, height / world.height), 0.7);
  const [x, y] = place_of(world.id) ?? [world.width / 2, world.height / 2];
  const offset = (size, world_size, at) => {
    const free = size - world_size * scale;
    return free > 0 ? free / 2 : Math.min(0, Math.max(free, size / 2 - at * scale));
  };
  view = { scale, x: offset(width, world.width, x), y: top + offset(height, world.height, y) };
}

function disc(x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
}

function draw_field() {
  context.fillStyle = colours.field;
  context.fillRect(0, 0, world.width, world.height);
  context.strokeStyle = colours.grid;
  context.lineWidth = 1;
  context.beginPath();
  for (let x = 0; x <= world.width; x += 100) { context.moveTo(x, 0); context.lineTo(x, world.height); }
  for (let y = 0; y <= world.height; y += 100) { context.moveTo(0, y); context.lineTo(world.width, y); }
  context.stroke();
}

function draw_coins(now) {
  context.fillStyle = colours.coin;
  context.strokeStyle = colours['coin-edge'];
  context.lineWidth = 2;
  for (const { x, y } of world.coins) {
    disc(x, y, 9);
    context.fill();
    context.stroke();
  }
  // A ring where a new coin has appeared.
  sparks = sparks.filter(({ began }) => now - began < 400);
  for (const { x, y, began } of sparks) {
    context.globalAlpha = 1 - (now - began) / 400;
    disc(x, y, 9 + (now - began) / 16);
    context.stroke();
  }
  context.globalAlpha = 1;
}

function draw_players() {
  context.textAlign = 'center';
  for (const [id, player] of players) {
    const place = place_of(id);
    if (!place) continue;
    const [x, y] = place, is_me = id === world.id;
    disc(x, y, 14);
    context.fillStyle = is_me ? colours.accent : `hsl(${id * 137 % 360} 55% ${colours['player-light']})`;
    context.fill();
    context.lineWidth = is_me ? 4 : 2;
    context.strokeStyle = is_me ? colours.text : colours['player-edge'];
    context.stroke();
    if (!is_me && view.scale < 0.7) continue; // names would be too small
    context.fillStyle = colours.text;
    context.globalAlpha = is_me ? 1 : 0.7;
    context.font = is_me ? `700 ${15 / view.scale}px system-ui` : `${12 / view.scale}px system-ui`;
    context.fillText(player.name, x, y - 20);
    context.globalAlpha = 1;
  }
}

let frames = 0;
function draw(now) {
  requestAnimationFrame(draw);
  const ratio = devicePixelRatio, width = innerWidth, height = innerHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  if (!world || !snapshots.length) return; // after a lost connection the last picture stays
  frames++;
  choose_snapshots(now);
  place_camera(width, height);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.translate(view.x, view.y);
  context.scale(view.scale, view.scale);
  draw_field();
  draw_coins(now);
  draw_players();
}
requestAnimationFrame(draw);

// --- Figures, once a second

let last = {};
async function measure() {
  const began = performance.now();
  try {
    const bytes = await server.timed_ping(2); // how many bytes we were sent
    const now = performance.now(), tick = snapshots.at(-1)?.tick;
    const seconds = (now - last.now) / 1000;
    element('players').textContent = players.size;
    element('ping').textContent = `${Math.round(now - began)} ms`;
    if (bytes >= last.bytes) { // not so after a new connection
      element('ticks').textContent = ((tick - last.tick) / seconds).toFixed(1);
      element('bytes').textContent = ((bytes - last.bytes) / seconds / 1000).toFixed(1);
      element('frames').textContent = Math.round((frames - last.frames) / seconds);
    }
    last = { now, tick, bytes, frames };
  } catch {
    last = {}; // there is no connection now
  }
  setTimeout(measure, 1000);
}

let scores_timer;
function show_scores_soon() {
  scores_timer ??= setTimeout(show_scores, 250);
}

function show_scores() {
  clearTimeout(scores_timer);
  scores_timer = undefined;
  const ranked = [...players.values()].sort((a, b) => b.score - a.score);
  const shown = ranked.slice(0, 8);
  const me = players.get(world?.id);
  if (me && !shown.includes(me)) shown.push(me);
  element('scores').replaceChildren(...shown.map((player) => {
    const item = document.createElement('li');
    item.value = ranked.indexOf(player) + 1;
    item.classList.toggle('me', player === me);
    const score = document.createElement('b');
    score.textContent = player.score;
    item.append(player.name, score); // as text: names are typed by others
    return item;
  }));
}

if (saved.token) connect(); // a reload of the page
