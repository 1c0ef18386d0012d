// The page's beginning: login, navigation, and which view is shown.

import { Api } from './api.js';
import { h, pill } from './dom.js';
import { Watch } from './watch.js';
import * as bans from './views/bans.js';
import * as configuration from './views/configuration.js';
import * as destinations from './views/destinations.js';
import * as overview from './views/overview.js';
import * as presence from './views/presence.js';
import * as publish from './views/publish.js';
import * as refusals from './views/refusals.js';
import * as sessions from './views/sessions.js';

/** Each has a title, the scope that it takes, and `show(context)`, which may answer `{ look, leave }`. */
const VIEWS = { overview, sessions, destinations, refusals, presence, bans, publish, configuration };
const THEME = 'stentor-theme';
const THEMES = { auto: 'dark', dark: 'light', light: 'auto' }; // each, and the next one

const api = new Api();
const watch = new Watch(api);
const place = (id) => document.getElementById(id);
let shown = null; // the view that is shown: { name, parts }

/** `#sessions/ID?search=x`: the view, what it is about, and its parameters. */
function route() {
  const [path, query = ''] = location.hash.slice(1).split('?');
  const [name, about] = path.split('/');
  const may = (name) => name in VIEWS && api.may(VIEWS[name].scope);
  const first = Object.keys(VIEWS).find(may);
  const decoded = () => {
    try {
      return about && decodeURIComponent(about);
    } catch {
      return undefined;
    }
  };
  return { name: may(name) ? name : first, about: decoded(), query: Object.fromEntries(new URLSearchParams(query)) };
}

function navigate() {
  if (!api.isLoggedIn) return;
  const { name, about, query } = route();
  shown?.parts?.leave?.();
  // A dialog belongs to the view that opened it.
  for (const dialog of document.querySelectorAll('dialog')) dialog.close();
  const root = h('div', { class: `view view-${name}` });
  place('view').replaceChildren(root);
  document.title = `${VIEWS[name].title} · Stentor`;
  for (const link of place('nav').querySelectorAll('a')) {
    if (link.dataset.view === name) {
      link.setAttribute('aria-current', 'page');
      // Not by scrollIntoView: the next Tab would begin here, and pass the link that skips all this.
      const nav = link.closest('nav');
      nav.scrollLeft += link.getBoundingClientRect().left - nav.getBoundingClientRect().left - 16;
    } else link.removeAttribute('aria-current');
  }
  const isNew = shown && shown.name !== name;
  shown = { name };
  shown.parts = VIEWS[name].show({ api, watch, root, about, query });
  // Whoever uses a keyboard or a screen reader begins at the new view.
  if (isNew) place('content').focus();
}

function look() {
  const { alarms } = watch;
  let { error } = watch;
  try {
    shown?.parts?.look?.();
  } catch (fault) {
    // What is shown is old then, and must not look new.
    console.error(fault);
    error ??= new Error(`This page cannot show what the gateway answers (${fault.message}). Load it anew.`);
  }
  const banner = place('banner');
  const text = error && (error.isAway ? 'The gateway does not answer. This page tries again.' : error.message);
  // A live region speaks when it changes, and only then.
  if (banner.textContent !== (text ?? '')) {
    banner.replaceChildren(...(text ? [h('p', { class: 'banner' }, text)] : []));
  }
  const badge = place('nav').querySelector('[data-view=overview] .badge');
  if (badge) {
    badge.textContent = alarms.length || '';
    badge.hidden = !alarms.length;
  }
}

function enter() {
  if (!Object.values(VIEWS).some((view) => api.may(view.scope))) {
    api.logout();
    return refuse(new Error('This token allows nothing that the page shows: that takes the scope read, publish or admin.'));
  }
  place('login').hidden = true;
  place('shell').hidden = false;
  place('token').value = '';
  const links = Object.entries(VIEWS).filter(([, view]) => api.may(view.scope));
  place('nav').replaceChildren(...links.map(([name, view]) => h('li', {},
    // With the point, for axe takes a `#` that is scrolled out of sight for a skip link.
    h('a', { href: `./#${name}`, 'data-view': name }, view.title,
      name === 'overview' && h('span', { class: 'badge', hidden: true, 'aria-label': 'alarms' })))));
  const scope = ['admin', 'publish', 'read'].find((scope) => api.may(scope));
  place('who').replaceChildren(h('span', { class: 'name' }, api.name), ' ', pill('plain', scope === 'publish' && api.may('read') ? 'read, publish' : scope));
  if (api.may('read')) watch.start();
  navigate();
}

function leave(error) {
  watch.stop();
  shown?.parts?.leave?.();
  shown = null;
  place('view').replaceChildren();
  place('banner').replaceChildren();
  for (const dialog of document.querySelectorAll('dialog')) dialog.close();
  document.title = 'Stentor';
  place('shell').hidden = true;
  place('login').hidden = false;
  refuse(error);
  place('token').focus();
}

function refuse(error) {
  const text = error && (error.status === 401 && error.wasLoggedIn ? 'The token does not count any more.' : error.message);
  place('login-error').textContent = text ?? '';
  place('login-error').hidden = !text;
  place('token').toggleAttribute('aria-invalid', Boolean(text));
}

function turn(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  place('theme').textContent = `Theme: ${theme}`;
  place('theme').onclick = () => {
    localStorage.setItem(THEME, THEMES[theme]);
    turn(THEMES[theme]);
  };
}

place('login-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const button = event.target.querySelector('button');
  button.disabled = true;
  try {
    await api.login(place('token').value.trim());
    refuse(null);
    enter();
  } catch (error) {
    refuse(error);
    place('token').focus();
  }
  button.disabled = false;
});
place('logout').addEventListener('click', () => {
  api.logout();
  leave(null);
});
place('skip').addEventListener('click', (event) => {
  event.preventDefault();
  place('content').focus();
});
addEventListener('hashchange', navigate);
addEventListener('keydown', (event) => {
  const isTyping = event.target.closest?.('input, textarea, select, dialog');
  const search = document.querySelector('.view input[type=search]');
  if (event.key === '/' && !isTyping && search) {
    event.preventDefault();
    search.focus();
  }
});
api.onexpired = () => leave({ status: 401, wasLoggedIn: true });
watch.onlook = look;
const theme = localStorage.getItem(THEME);
turn(theme in THEMES ? theme : 'auto');

try {
  if (await api.resume()) enter();
  else leave(null);
} catch (error) {
  // The token of before does not count any more, or the gateway is away.
  if (error.status === 401) api.logout();
  leave(error);
}
