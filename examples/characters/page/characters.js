// The page of character making. It makes one call, `create_character`. Before that is answered the server calls the
// functions in `symbols`: each shows a form, and answers when the form is submitted.
import { open } from './yue.js';

const element = (id) => document.getElementById(id);
const CALL_S = 3600; // the call takes as long as its human

let points; // by ability; kept while they are asked again

const address = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/rpc`;
const server = open(address, {
  retry: true, // the server may be down at first
  symbols: {
    /** The last argument of each question is what was wrong with the answer before, or null. */
    async ask_name(problem) {
      await answered('name', problem);
      return element('name-input').value;
    },

    async choose_class(classes, problem) {
      element('classes').replaceChildren(...classes.map(({ name, about }, i) => {
        const choice = made('label', 'choice');
        const radio = made('input');
        Object.assign(radio, { type: 'radio', name: 'class', value: name, checked: i === 0 });
        const text = made('span');
        text.append(made('b', '', name), made('span', 'about', about));
        choice.append(radio, text);
        return choice;
      }));
      await answered('class', problem);
      return new FormData(element('class')).get('class');
    },

    async spend_points(abilities, total, problem) {
      if (!problem) points = Object.fromEntries(abilities.map((ability) => [ability, 0]));
      show_points(points, total);
      await answered('points', problem);
      return points;
    },

    async confirm({ name, class: calling, points }) {
      element('character-name').textContent = name;
      element('character-class').textContent = `The ${calling}`;
      element('character-points').replaceChildren(...Object.entries(points).flatMap(([ability, count]) =>
        [made('dt', '', ability), made('dd', '', count)]));
      return await answered('confirm') === 'yes';
    },
  },
  accept() {
    show_state('online');
    return true;
  },
  // The link is lost. A true result makes it again; a call that was under way has failed.
  close() {
    show_state('reconnecting');
    return true;
  },
});

/** Shows a form, and waits until it is submitted. Returns the value of the button. */
function answered(id, problem) {
  const form = show(id);
  const line = form.querySelector('.problem');
  if (line) {
    line.textContent = problem ? `That does not work: ${problem}.` : '';
    // Until the player changes something.
    form.oninput = form.onclick = () => { line.textContent = ''; };
  }
  form.querySelector('input, button')?.focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      resolve(event.submitter?.value);
    };
  });
}

function show(id) {
  for (const form of document.forms) form.hidden = form.id !== id;
  return element(id);
}

/** A line with a minus and a plus for each ability. */
function show_points(points, total) {
  const spent = () => Object.values(points).reduce((sum, count) => sum + count, 0);
  const update = () => {
    element('points-left').textContent = `${total - spent()} of ${total} points left`;
    for (const ability in points) element(`points-${ability}`).textContent = points[ability];
  };
  const change = (ability, by) => {
    if (points[ability] + by < 0 || spent() + by > total) return;
    points[ability] += by;
    update();
  };
  element('abilities').replaceChildren(...Object.keys(points).map((ability) => {
    const button = (sign, by, label) => {
      const one = made('button', 'step', sign);
      Object.assign(one, { type: 'button', ariaLabel: `${label} ${ability}`, onclick: () => change(ability, by) });
      return one;
    };
    const line = made('div', 'ability');
    const count = made('output');
    count.id = `points-${ability}`;
    line.append(made('span', '', ability), button('−', -1, 'less'), count, button('+', 1, 'more'));
    return line;
  }));
  update();
}

function made(tag, class_name = '', text = '') {
  const one = document.createElement(tag);
  one.className = class_name;
  one.textContent = text; // as text: never as HTML
  return one;
}

let link; // connecting, online or reconnecting

function show_state(new_link = link) {
  link = new_link;
  if (!link) return; // nothing was called yet
  const state = navigator.onLine ? link : 'offline'; // the whole browser is
  const texts = { connecting: 'Connecting…', online: 'Online', reconnecting: 'Reconnecting…', offline: 'Offline' };
  element('state').textContent = texts[state];
  document.body.dataset.state = state;
}

addEventListener('offline', () => show_state());
addEventListener('online', () => show_state());

element('start').onsubmit = async (event) => {
  event.preventDefault();
  if (!link) show_state('connecting');
  const end = element('end');
  end.textContent = '';
  try {
    end.textContent = await server.timed_create_character(CALL_S) + '.';
    end.className = '';
  } catch (error) {
    end.textContent = `It was interrupted: ${error.message}. Begin anew.`;
    end.className = 'problem';
  }
  show('start');
};
