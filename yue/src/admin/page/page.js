// The page of a running program: asks for its state every two seconds, while the page is visible, and draws it.
'use strict';

const INTERVAL_MS = 2000;
const SAMPLES_MAX = 120;
const ROWS_MAX = 200;

const $ = id => document.getElementById(id);
const token = document.querySelector('meta[name=token]').content;

// -- Texts -----------------------------------------------------------------------------------------------------------

function duration(seconds) {
  if (seconds === undefined || seconds === null) return '';
  if (seconds < 0.001) return Math.round(seconds * 1e6) + ' µs';
  if (seconds < 1) return (seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0) + ' ms';
  if (seconds < 120) return seconds.toFixed(1) + ' s';
  if (seconds < 7200) return Math.round(seconds / 60) + ' min';
  if (seconds < 172800) return (seconds / 3600).toFixed(1) + ' h';
  return Math.round(seconds / 86400) + ' days';
}

function bytes(count) {
  if (count === undefined || count === null) return '';
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (count < 1024 || unit === 'GiB') return (unit === 'B' || count >= 100 ? Math.round(count) : count.toFixed(1)) + ' ' + unit;
    count /= 1024;
  }
}

function number(value) {
  if (value === undefined || value === null) return '';
  if (Math.abs(value) >= 1e6) return (value / 1e6).toFixed(2) + ' M';
  return value < 10 && value % 1 ? value.toFixed(1) : Math.round(value).toLocaleString('en');
}

function fileName(path) {
  return path ? path.split('/').pop() : '';
}

// -- Elements --------------------------------------------------------------------------------------------------------

// All texts go through textContent: names and addresses are written by others.
function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** Fills a table. `columns`: a title, the text of a row, and a class. */
function fill(id, columns, rows, empty) {
  const head = element('tr');
  for (const [title, , className] of columns) head.append(element('th', title, className === 'number' ? className : ''));
  const lines = (rows || []).slice(0, ROWS_MAX).map(row => {
    const line = element('tr');
    for (const [, text, className] of columns) {
      const value = text(row);
      const bad = value && value.bad;
      line.append(element('td', bad ? value.bad : value, (className || '') + (bad ? ' bad' : '')));
    }
    return line;
  });
  if (lines.length === 0) {
    const cell = element('td', empty, 'empty');
    cell.colSpan = columns.length;
    const line = element('tr');
    line.append(cell);
    lines.push(line);
  }
  $(id).replaceChildren(head, ...lines);
}

function numbers(list) {
  $('numbers').replaceChildren(...list.map(([title, value]) => {
    const box = element('div');
    box.append(element('b', value), element('span', title));
    return box;
  }));
}

// -- Graphs ----------------------------------------------------------------------------------------------------------

const WIDTH = 600, HEIGHT = 130, TOP = 8, BOTTOM = 14;

function shape(tag, attributes, text) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The next number of the form 1, 2 or 5 times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 5, 10]) if (value <= step * power * 1.0001) return step * power;
}

function draw(id, samples, label) {
  const svg = $(id);
  const width = Math.max(200, svg.clientWidth || WIDTH);
  svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
  const known = samples.filter(value => value !== null);
  const top = roundUp(Math.max(...known, 1e-6));
  const x = at => width - (samples.length - 1 - at) * width / (SAMPLES_MAX - 1);
  const y = value => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;
  const parts = [0, 0.5, 1].map(share => shape('line', { class: 'grid', x1: 0, x2: width, y1: y(top * share), y2: y(top * share) }));
  const points = samples.map((value, at) => value === null ? null : `${x(at).toFixed(1)},${y(value).toFixed(1)}`);
  const first = points.findIndex(point => point !== null);
  const drawn = points.filter(point => point !== null);
  if (drawn.length > 1) {
    const last = points.length - 1 - [...points].reverse().findIndex(point => point !== null);
    const area = `${x(first).toFixed(1)},${y(0)} ${drawn.join(' ')} ${x(last).toFixed(1)},${y(0)}`;
    parts.push(shape('polygon', { class: 'area', points: area }));
    parts.push(shape('polyline', { class: 'curve', points: drawn.join(' ') }));
  }
  if (known.length) parts.push(shape('text', { x: 2, y: TOP + 12 }, label(top)));
  parts.push(shape('text', { x: 2, y: HEIGHT - 2 }, `${SAMPLES_MAX * INTERVAL_MS / 60000} min ago`));
  parts.push(shape('text', { x: width - 2, y: HEIGHT - 2, 'text-anchor': 'end' }, 'now'));
  svg.replaceChildren(...parts);
}

const rates = [], times = [];
let before = null;

function note(list, value) {
  list.push(value);
  if (list.length > SAMPLES_MAX) list.shift();
}

/** The mean time of the calls between two answers; null if there were none. */
function meanTime(now, then) {
  if (!now || !then || now.watched_seconds < then.watched_seconds) return null;
  const sum = (calls, field) => calls.methods.reduce((total, one) => total + (one[field] || 0), 0);
  const count = sum(now, 'calls') - sum(then, 'calls');
  return count > 0 ? Math.max(0, sum(now, 'total_seconds') - sum(then, 'total_seconds')) / count : null;
}

function drawGraphs(state, at) {
  const has = state.calls && state.calls.methods;
  if (before) {
    const seconds = (at - before.at) / 1000;
    note(rates, Math.max(0, state.counters.requests - before.state.counters.requests) / seconds);
    const loops = (state.loops || []).map(one => one.latency_seconds || 0);
    note(times, has ? meanTime(state.calls, before.state.calls) : Math.max(0, ...loops));
  }
  $('latency-title').textContent = has ? 'Mean time of a call' : 'Time until a loop answers';
  const last = list => list.length && list[list.length - 1] !== null ? list[list.length - 1] : null;
  $('rate-now').textContent = last(rates) === null ? '' : number(last(rates));
  $('latency-now').textContent = last(times) === null ? '' : duration(last(times));
  draw('rate', rates, number);
  draw('latency', times, duration);
  before = { at, state };
}

// -- The state -------------------------------------------------------------------------------------------------------

function show(state, at) {
  const { info, counters } = state;
  const loops = state.loops || [];
  document.title = `${fileName(info.name)} – yue`;
  $('name').textContent = fileName(info.name);
  $('about').textContent = `process ${info.pid}, yue ${info.version}, ${info.driver || 'no driver'}`;
  const connections = (state.connections && state.connections.connections) || [];
  const more = state.connections && state.connections.next ? '+' : '';
  const held = loops.filter(one => !one.answers).length;
  const cpu = before ? (counters.cpu_seconds - before.state.counters.cpu_seconds) / ((at - before.at) / 1000) : null;
  numbers([
    ['uptime', duration(Date.now() / 1000 - info.start_time_seconds)],
    [loops.length === 1 ? 'loop' : 'loops', held ? `${loops.length} (${held} held)` : String(loops.length)],
    ['fibers', number(info.fibers)],
    ['connections', connections.length + more],
    ['requests served', number(counters.requests)],
    ['failed', number(counters.errors)],
    ['memory', bytes(counters.memory_bytes)],
    ['processor', cpu === null ? '–' : Math.round(cpu * 100) + ' %'],
  ]);
  drawGraphs(state, at);

  const calls = state.calls && state.calls.methods;
  $('calls-count').textContent = calls ? `in the last ${duration(state.calls.watched_seconds)}` : '';
  fill('calls', [
    ['function', one => one.method],
    ['listener', one => one.listener || '', 'long'],
    ['calls', one => number(one.calls), 'number'],
    ['errors', one => one.errors ? { bad: number(one.errors) } : '0', 'number'],
    ['running', one => number(one.in_flight), 'number'],
    ['mean', one => duration(one.mean_seconds), 'number'],
    ['99 %', one => duration(one.p99_seconds), 'number'],
    ['longest', one => duration(one.max_seconds), 'number'],
  ], calls, calls ? 'No function has been called since this page was opened.' : 'This version of yue keeps no statistics by function.');

  $('connections-count').textContent = more ? `the first ${connections.length}` : '';
  fill('connections', [
    ['address', one => one.address, 'long'],
    ['', one => one.role === 'opened' ? 'opened' : 'accepted' ],
    ['listener', one => one.listener || '', 'long'],
    ['state', one => one.state === 'up' ? 'up' : { bad: one.state }],
    ['age', one => duration(one.age_seconds), 'number'],
    ['requests', one => number(one.requests), 'number'],
    ['calls', one => number(one.calls), 'number'],
    ['in flight', one => number(one.calls_in_flight + one.requests_in_flight), 'number'],
    ['queued', one => bytes(one.queued_bytes), 'number'],
    ['received', one => bytes(one.received_bytes), 'number'],
    ['sent', one => bytes(one.sent_bytes), 'number'],
  ], connections, 'There are no connections.');

  const listeners = (state.listeners && state.listeners.listeners) || [];
  fill('listeners', [
    ['address', one => one.address, 'long'],
    ['connections', one => number(one.connections), 'number'],
    ['requests', one => number(one.requests_in_flight), 'number'],
    ['memory', one => bytes(one.memory_bytes), 'number'],
  ], listeners, 'The program listens nowhere.');
  offerListeners(listeners);

  fill('loops', [
    ['loop', one => one.loop, 'number'],
    ['thread', one => one.thread],
    ['fibers', one => number(one.fibers), 'number'],
    ['busy', one => Math.round(100 * one.busy_seconds / Math.max(one.age_seconds, 1e-9)) + ' %', 'number'],
    ['answers in', one => one.answers ? duration(one.latency_seconds) : { bad: `held for ${duration(one.blocked_seconds)}` }, 'number'],
  ], loops, 'There are no loops.');

  const groups = (state.waits && state.waits.groups) || [];
  const others = (state.waits && state.waits.others) || 0;
  $('waits-count').textContent = others ? `and ${number(others)} more` : '';
  fill('waits', [
    ['fibers', one => number(one.count), 'number'],
    ['wait for', one => one.waits_for || one.state],
    ['longest', one => duration(one.longest_seconds), 'number'],
    ['function or place of the spawn', one => one.origin || one.spawned_at, 'long'],
    ['name', one => one.name || ''],
  ], groups, 'There are no fibers.');
  showGraph(state.graph, ` process ${info.pid} ${fileName(info.name)}`);
}

function showGraph(graph, process) {
  // All are of this process.
  const shorten = text => text.replaceAll(' of' + process, '').replaceAll(' from' + process, '');
  const cycles = (graph && graph.cycles) || [], chains = (graph && graph.chains) || [];
  $('deadlocks').replaceChildren(...cycles.map(one => {
    const more = one.others ? `; ${one.others} more wait for these` : '';
    return element('p', shorten(one.text) + more);
  }));
  $('graph-count').textContent = graph ? `${graph.waiting} wait for another fiber of this program` : '';
  const items = chains.map(one => element('li', shorten(one.text)));
  $('chains').className = items.length ? '' : 'none';
  if (!items.length) items.push(element('li', cycles.length ? 'Only those in the deadlocks above.' : 'No fiber waits for another one.'));
  $('chains').replaceChildren(...items);
}

// -- Calls -----------------------------------------------------------------------------------------------------------

let offered = '', described = {};

function offerListeners(listeners) {
  // An HTTP server has requests, not calls.
  const callable = listeners.filter(one => one.accepting && !one.address.startsWith('http'));
  const addresses = [...new Set(callable.map(one => one.address))];
  if (addresses.join() === offered) return;
  offered = addresses.join();
  const select = $('address'), chosen = select.value;
  select.replaceChildren(...addresses.map(one => element('option', one)));
  if (addresses.includes(chosen)) select.value = chosen;
  describe();
}

async function post(path, body) {
  const answer = await fetch('/_yue/api/' + path, {
    method: 'POST', headers: { 'content-type': 'application/json', 'x-yue-token': token }, body: JSON.stringify(body),
  });
  if (!(answer.headers.get('content-type') || '').startsWith('application/json')) throw new Error(await answer.text());
  return answer.json();
}

function faultText(error) {
  return typeof error === 'string' ? error : `${error.type}: ${error.message}`;
}

async function describe() {
  const address = $('address').value;
  described = {};
  $('functions').replaceChildren();
  $('described').textContent = address ? '' : 'The program has no listener for calls, so nothing can be called.';
  if (!address) return;
  try {
    const answer = await post('describe', { address });
    if (answer.error) {
      $('described').textContent = 'Its functions cannot be listed: ' + faultText(answer.error);
      return;
    }
    for (const one of answer.functions || []) described[one.name] = one;
    $('functions').replaceChildren(...Object.keys(described).map(name => {
      const option = element('option');
      option.value = name;
      return option;
    }));
    hint();
  } catch (error) {
    $('described').textContent = String(error.message || error);
  }
}

function hint() {
  const one = described[$('method').value];
  const names = Object.keys(described);
  if (one) {
    const parameters = [...(one.params || []), ...(one.vararg ? ['…'] : [])].join(', ');
    $('described').textContent = `${one.name}(${parameters})${one.doc ? ': ' + one.doc : ''}`;
  } else {
    $('described').textContent = names.length ? `${names.length} functions: ${names.slice(0, 12).join(', ')}${names.length > 12 ? ' …' : ''}` : '';
  }
}

function showResult(text, bad) {
  const box = $('result');
  box.hidden = false;
  box.className = bad ? 'bad' : '';
  box.textContent = text;
}

$('call').addEventListener('submit', async event => {
  event.preventDefault();
  let args;
  try {
    const text = $('args').value.trim();
    args = text === '' ? [] : JSON.parse(text);
  } catch (error) {
    return showResult(`The arguments are not JSON: ${error.message}. Write a list: ["frodo", 3]`, true);
  }
  // One value that is no list is one argument.
  if (!Array.isArray(args)) args = [args];
  const button = $('call').querySelector('button');
  button.disabled = true;
  try {
    const answer = await post('call', { address: $('address').value, method: $('method').value, args });
    const time = answer.seconds === undefined ? '' : `\n\nafter ${duration(answer.seconds)}`;
    if (answer.error) showResult(faultText(answer.error) + time, true);
    else showResult(answer.text + time, false);
  } catch (error) {
    showResult(String(error.message || error), true);
  } finally {
    button.disabled = false;
  }
});
$('address').addEventListener('change', describe);
$('method').addEventListener('input', hint);

// -- The loop --------------------------------------------------------------------------------------------------------

let timer = null;

async function refresh() {
  timer = null;
  const status = $('status');
  try {
    const answer = await fetch('/_yue/api/state');
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const state = await answer.json();
    if (!state.info) throw new Error(state.error || 'the program does not answer');
    show(state, performance.now());
    status.textContent = 'live';
    status.className = '';
  } catch (error) {
    const lost = error instanceof TypeError;
    status.textContent = lost ? 'The program has ended, or cannot be reached. A program that starts again has a new key: open the address that it prints.' : String(error.message || error);
    status.className = 'lost';
  }
  if (!document.hidden) timer = setTimeout(refresh, INTERVAL_MS);
}

document.addEventListener('visibilitychange', () => {
  if (!document.hidden && timer === null) refresh();
});
refresh();
