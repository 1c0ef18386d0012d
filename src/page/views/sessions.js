// Sessions on all nodes: found, looked at, and ended. A page of them at a time, however many there are.

import { h, redraw, status, table } from '../dom.js';
import { ago, count, moment, named } from '../format.js';
import { banDialog, kickDialog, showSession } from './session.js';

export const title = 'Sessions';
export const scope = 'read';

const PAGE = 100;
const AFTER_KEY = 250; // milliseconds without a key until it looks

export function show({ api, root, about, query }) {
  const search = h('input', { type: 'search', placeholder: 'user, address, device or id', value: query.search ?? '', maxlength: 255, 'aria-label': 'Search sessions', autocomplete: 'off', spellcheck: 'false' });
  const total = h('p', { class: 'soft', role: 'status' });
  const list = h('div', { class: 'list' });
  const back = h('button', { type: 'button', class: 'quiet', disabled: true }, 'Previous');
  const forth = h('button', { type: 'button', class: 'quiet', disabled: true }, 'Next');
  const again = h('button', { type: 'button', class: 'quiet', onclick: () => load() }, 'Refresh');
  const pager = h('nav', { class: 'pager', 'aria-label': 'Pages of sessions', hidden: true }, back, forth);
  let pages = [undefined]; // cursors of the pages up to this one
  let asked = 0; // only the newest question's answer is shown
  let next, timer;

  root.append(h('h1', {}, title),
    h('div', { class: 'tools' }, h('div', { class: 'search' }, search, h('kbd', { 'aria-hidden': 'true' }, '/')), again),
    total, list, pager);

  async function load() {
    // A panel that closes with its view needs no new list.
    if (!root.isConnected) return;
    const mine = (asked += 1);
    const text = search.value.trim();
    list.setAttribute('aria-busy', 'true');
    next = undefined; // that of before leads on from another list
    try {
      let found = { sessions: [], next: pages.at(-1) };
      // A page may be empty although more follow: a search looks at so many sessions in one call.
      do found = await api.get('/api/v1/sessions', { search: text, limit: PAGE, cursor: found.next });
      while (!found.sessions.length && found.next && mine === asked);
      const counts = await api.get('/api/v1/counts');
      if (mine !== asked) return;
      next = found.next;
      draw(found.sessions, counts, text);
    } catch (error) {
      if (mine !== asked) return;
      total.textContent = '';
      list.replaceChildren(h('p', { class: 'empty' }, error.status === 409
        ? ['Sessions are known where presence is on. For a single node: ', h('code', {}, '[presence] url = "memory:"'), '; for several: a Redis.']
        : error.message));
    }
    list.removeAttribute('aria-busy');
    back.disabled = pages.length < 2;
    forth.disabled = !next;
    pager.hidden = back.disabled && forth.disabled;
  }

  function draw(sessions, counts, text) {
    const from = (pages.length - 1) * PAGE;
    const all = `${count(counts.sessions)} ${counts.sessions === 1 ? 'session' : 'sessions'} of ${count(counts.users)} ${counts.users === 1 ? 'user' : 'users'}`;
    total.textContent = text ? `${count(sessions.length)}${next ? ' or more' : ''} found among ${all}` : sessions.length ? `${count(from + 1)}–${count(from + sessions.length)} of ${all}` : all;
    const mayKick = api.may('admin');
    const columns = [
      { name: 'User', long: true }, { name: 'Status' }, { name: 'Address', minor: true }, { name: 'Device', minor: true, long: true }, { name: 'Transport', minor: true },
      { name: 'Node', minor: true }, { name: 'Here for', number: true }, ...(mayKick ? [{ name: 'Actions', hidden: true }] : []),
    ];
    const rows = sessions.map((session) => [
      h('button', { type: 'button', class: 'link', 'data-key': `open ${session.session}`, onclick: () => open(session.session) }, named(session.user)),
      status(session.status),
      h('code', {}, session.remote ?? '–'),
      [session.device_type, session.device_id].filter(Boolean).join(' · ') || '–',
      session.transport,
      h('code', {}, session.node),
      h('span', { title: moment(session.since) }, ago(session.since)),
      ...(mayKick ? [h('button', { type: 'button', class: 'quiet small', 'data-key': `kick ${session.session}`, 'aria-label': `Kick ${named(session.user)}, ${session.session}`, onclick: () => kick(session) }, 'Kick')] : []),
    ]);
    redraw(list, table('Sessions', columns, rows, pages.length > 1 ? 'No session is left on this page.' : text ? `No session has “${text}” in its user, address, device or id.` : 'Nobody is connected.'));
  }

  async function kick(session) {
    if (await kickDialog(api, session)) load();
  }

  function open(id) {
    showSession({ api, id, kick: (session) => kickDialog(api, session), ban: (what) => banDialog(api, what), onclose: (hasActed) => hasActed && load() });
  }

  search.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      pages = [undefined];
      load();
    }, AFTER_KEY);
  });
  forth.addEventListener('click', () => {
    if (!next) return;
    pages.push(next);
    load();
  });
  back.addEventListener('click', () => {
    if (pages.length < 2) return;
    pages.pop();
    load();
  });
  load();
  if (about) open(about);
  return {
    leave() {
      clearTimeout(timer);
      asked += 1;
    },
  };
}
