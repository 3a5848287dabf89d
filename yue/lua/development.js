/* The side of the pages in development mode (yue dev): reloads a page when its files change, renews style sheets without
   a reload, and shows errors of the program above the page. One page of a browser listens to the program, because a
   browser opens only six connections to a server; the others hear it through a channel. */
(() => {
  if (window.yueDevelopment) return;
  window.yueDevelopment = true;
  let pages = document.currentScript && document.currentScript.dataset.pages;
  let overlay = null;
  let last = null; /* The latest state. */
  let closed = null; /* The state whose errors the user has closed. */
  let isClosing = false; /* Whether the program does not know that yet. */
  const channel = window.BroadcastChannel ? new BroadcastChannel('yue dev') : null;

  function renewStyles() {
    const links = [...document.querySelectorAll('link[rel~="stylesheet"][href]')];
    for (const link of links) {
      const address = new URL(link.href);
      if (address.origin !== location.origin) continue;
      address.searchParams.set('yue', Date.now());
      const next = link.cloneNode();
      next.href = address.href;
      /* The old one stays until the new one is there, so that the page never stands without styles. */
      next.onload = next.onerror = () => link.remove();
      link.after(next);
    }
    return links.length > 0;
  }

  function hide() {
    if (overlay) overlay.host.remove();
    overlay = null;
  }

  /* Hides the errors until there are others. The program hides its failures from all pages. */
  async function close() {
    closed = last;
    hide();
    if (!last.failures.length) return;
    isClosing = true;
    /* If the program is down, its end is shown anyway. */
    await fetch('/_yue/dev', { method: 'POST' }).catch(() => {});
    isClosing = false;
  }

  function made(tag, style, ...contents) {
    const element = document.createElement(tag);
    element.style.cssText = style;
    element.append(...contents);
    return element;
  }

  /* Makes the overlay. The texts stay as they are while only counts change: somebody may be reading or copying them. */
  function show(error, failures, texts) {
    hide();
    const box = made('div', 'position:fixed;inset:auto 0 0 0;z-index:2147483647;max-height:60vh;overflow:auto;margin:0;' +
      'padding:16px 20px;background:#2b1113;color:#ffe3e3;border-top:4px solid #e5484d;' +
      'font:14px/1.5 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere');
    box.setAttribute('role', 'alert');
    const button = made('button', 'float:right;font:inherit;color:inherit;background:none;border:1px solid;' +
      'padding:0 8px;cursor:pointer', 'close');
    button.onclick = close;
    box.append(button);
    const line = 'padding:8px 0;border-bottom:1px solid #5c2a2d';
    if (error) box.append(made('div', failures.length ? line : '', error));
    const counts = failures.map(({ text }) => {
      const count = made('b', 'color:#ff9592');
      count.setAttribute('aria-live', 'off');
      box.append(made('div', line, count, text));
      return count;
    });
    const host = document.createElement('yue-error');
    host.attachShadow({ mode: 'open' }).append(box);
    (document.body || document.documentElement).append(host);
    overlay = { host, texts, counts };
  }

  /* Shows the errors of a state: that of a reload, and the failures of the running program, the newest first. */
  function showErrors(state) {
    const failures = isClosing ? [] : state.failures.slice().reverse();
    const error = closed && closed.error === state.error ? null : state.error;
    if (!error && !failures.length) return hide();
    const texts = JSON.stringify([error, ...failures.map(({ text }) => text)]);
    if (!overlay || overlay.texts !== texts) show(error, failures, texts);
    failures.forEach(({ count }, i) => {
      overlay.counts[i].textContent = count > 1 ? `${count} times: ` : '';
    });
  }

  function apply(state) {
    state.failures = state.failures || [];
    last = state;
    if (closed && closed.error !== state.error) closed = null;
    /* The page that stands for the program while it is down is the error itself. */
    const error = document.querySelector('pre[data-yue-error]');
    if (error && state.error) error.textContent = state.error;
    else showErrors(state);
    if (!state.pages || state.pages === pages) return;
    const isKnown = Boolean(pages);
    pages = state.pages;
    if (isKnown && !(state.styles && renewStyles())) location.reload();
  }

  function listen() {
    const events = new EventSource('/_yue/dev');
    events.addEventListener('state', (event) => {
      const state = JSON.parse(event.data);
      if (channel) channel.postMessage({ state });
      apply(state);
    });
    events.onerror = () => {
      /* A browser tries again by itself only after some kinds of failures. */
      if (events.readyState === EventSource.CLOSED) setTimeout(listen, 300);
    };
    if (channel) {
      channel.onmessage = (event) => {
        if (event.data.hello && last) channel.postMessage({ state: { ...last, styles: false } });
      };
    }
  }

  if (channel && navigator.locks) {
    channel.onmessage = (event) => event.data.state && apply(event.data.state);
    channel.postMessage({ hello: true });
    navigator.locks.request('yue dev', () => {
      listen();
      return new Promise(() => {});
    });
  } else {
    listen();
  }
})();
