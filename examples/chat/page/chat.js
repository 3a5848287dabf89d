// The page of the chat. It calls the server's functions as `server.say(text)`; the server calls those in `symbols`.
import { open } from './yue.js';

const element = (id) => document.getElementById(id);

// Who we are: kept for this tab, so that it is still itself after a reload, and another tab is somebody else.
const saved = sessionStorage;
// A secret of this tab, by which it gets its name back when it connects again.
saved.secret ??= crypto.getRandomValues(new Uint32Array(4)).join('-');

const address = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/rpc`;
const server = open(address, {
  retry: true, // the server may be down at first
  symbols: { entered, line, members, room },
  // The connection is up, for the first time or again. The call goes out when this function has returned.
  accept() {
    show_state('online');
    if (saved.room) join(saved.name, saved.room);
    return true;
  },
  // The link is lost. A true result makes it again.
  close() {
    show_state('reconnecting');
    return true;
  },
});

// --- What the server tells us

/** All that there is to show about the room that we have entered. */
function entered({ room, lines, members: names, rooms }) {
  saved.room = room;
  element('welcome').hidden = true;
  element('chat').hidden = false;
  element('title').textContent = document.title = room;
  element('lines').replaceChildren();
  lines.forEach(line);
  members(names);
  counts = rooms;
  show_rooms();
  element('text').focus();
}

/** Somebody said something, or, without a name, something happened. */
function line({ name, text, time }) {
  const list = element('lines');
  const at_end = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  const item = document.createElement('li');
  // Only textContent: what others typed must never become HTML.
  item.append(piece('span', 'text', text));
  if (name === undefined || name === null) {
    item.className = 'event';
  } else {
    item.dataset.name = name;
    item.className = name === saved.name ? 'own' : 'other';
    if (list.lastElementChild?.dataset.name === name) item.classList.add('more');
    const when = piece('time', '', new Date(time * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' }));
    const head = piece('span', 'head');
    head.append(piece('b', '', name), when);
    item.prepend(avatar(name), head);
  }
  list.append(item);
  while (list.children.length > 500) list.firstElementChild.remove();
  if (at_end || name === saved.name) list.scrollTop = list.scrollHeight;
}

/** The members of our room. */
function members(names) {
  element('members').replaceChildren(...names.map((name) => {
    const item = document.createElement('li');
    item.append(avatar(name), piece('span', '', name === saved.name ? `${name} (you)` : name));
    return item;
  }));
}

let counts = {}; // members by room

/** How many members a room has now. */
function room(name, count) {
  counts[name] = count;
  show_rooms();
}

// --- What we tell the server

async function join(name, room) {
  saved.name = name;
  try {
    const refusal = await server.join(room, name, saved.secret);
    element('refusal').textContent = refusal ?? '';
    if (refusal) leave();
  } catch (error) {
    // A lost connection comes back, and `accept` joins again.
    if (!error.is_a?.('TransportError')) element('refusal').textContent = error.message;
  }
}

function leave() {
  delete saved.room;
  element('welcome').hidden = false;
  element('chat').hidden = true;
}

function on_submit(id, action) {
  element(id).addEventListener('submit', (event) => {
    event.preventDefault();
    action();
  });
}

on_submit('join', () => join(element('name').value.trim(), element('room').value.trim()));

on_submit('new-room', () => {
  join(saved.name, element('new-room-name').value.trim());
  element('new-room-name').value = '';
});

on_submit('say', async () => {
  const input = element('text');
  const text = input.value;
  if (!text.trim() || state !== 'online') return; // it stays in the field until it can be sent
  input.value = '';
  let refusal;
  try {
    refusal = await server.say(text);
  } catch (error) {
    refusal = error.message;
  }
  if (refusal) {
    input.value = text;
    line({ text: `That was not sent: ${refusal}` });
  }
});

// --- Appearance

let link; // connecting, online or reconnecting
let state; // the same, or offline: the whole browser is

function show_state(new_link = link) {
  link = new_link;
  state = navigator.onLine ? link : 'offline';
  const texts = { connecting: 'Connecting…', online: 'Online', reconnecting: 'Reconnecting…', offline: 'Offline' };
  for (const shown of document.querySelectorAll('.state')) shown.textContent = texts[state];
  document.body.dataset.state = state;
}

function piece(tag, class_name, text = '') {
  const made = document.createElement(tag);
  made.className = class_name;
  made.textContent = text;
  return made;
}

/** A disc with the first letter of a name, in a colour that only depends on the name. */
function avatar(name) {
  const disc = piece('span', 'avatar', [...name][0].toUpperCase());
  let hue = 0;
  for (const character of name) hue = (hue * 31 + character.codePointAt(0)) % 360;
  disc.style.setProperty('--hue', hue);
  disc.setAttribute('aria-hidden', 'true');
  return disc;
}

function show_rooms() {
  const names = Object.keys(counts).filter((name) => counts[name] > 0 || name === saved.room).sort();
  element('rooms').replaceChildren(...names.map((name) => {
    const button = piece('button', '', name);
    button.append(piece('span', 'count', counts[name]));
    if (name === saved.room) button.setAttribute('aria-current', 'true');
    button.addEventListener('click', () => join(saved.name, name));
    const item = document.createElement('li');
    item.append(button);
    return item;
  }));
}

addEventListener('offline', () => show_state());
addEventListener('online', () => show_state());

element('name').value = saved.name ?? '';
show_state('connecting');
// The first call connects. Its answer is the list of rooms to choose from.
server.list_rooms().then((rooms) => {
  element('rooms-known').replaceChildren(...Object.keys(rooms).map((name) => new Option(name)));
}, () => {});
