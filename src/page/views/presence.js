// Who is online: users by name, and the members of a group.

import { path } from '../api.js';
import { facts, field, h, status, table } from '../dom.js';
import { ago, count, moment, named } from '../format.js';

export const title = 'Presence';
export const scope = 'read';

const SHOWN = 1_000; // members: a group may be too large for a table

export function show({ api, root, query }) {
  const counts = h('p', { class: 'soft', role: 'status' });
  const user = lookup('User', 'The name, as the client logs in.', async (name) => {
    const found = await api.get(path('users', name));
    return [
      facts(['User', named(found.user)], ['Status', status(found.status)], ['Sessions', count(found.count)]),
      table('Sessions of the user', [{ name: 'Session' }, { name: 'Status' }, { name: 'Address', minor: true }, { name: 'Device', minor: true, long: true }, { name: 'Last seen' }],
        found.sessions.map((session) => [
          h('a', { href: `#sessions/${encodeURIComponent(session.session)}` }, h('code', { class: 'id' }, session.session)), status(session.status), h('code', {}, session.remote ?? '–'),
          [session.device_type, session.device_id].filter(Boolean).join(' · ') || '–', h('span', { title: moment(session.last_seen) }, `${ago(session.last_seen)} ago`)]),
        'The user is not here.'),
      part(found.sessions.length, found.count),
    ];
  });
  const group = lookup('Group', 'As the hook names it. Invisible members are not among those who are online.', async (name) => {
    const found = await api.get(path('groups', name));
    return [table('Members who are online', [{ name: 'User', long: true }, { name: 'Status' }],
      found.online.slice(0, SHOWN).map((member) => [h('a', { href: `#sessions?search=${encodeURIComponent(member.user)}` }, named(member.user)), status(member.status)]),
      'No member is online, or there is no such group.'),
    part(Math.min(SHOWN, found.online.length), found.online.length)];
  });
  root.append(h('h1', {}, title), counts, h('div', { class: 'columns' }, user.element, group.element));
  api.get('/api/v1/counts').then(
    ({ sessions, users }) => (counts.textContent = `${count(users)} ${users === 1 ? 'user' : 'users'} in ${count(sessions)} ${sessions === 1 ? 'session' : 'sessions'}, on all nodes.`),
    (error) => (counts.textContent = error.message));
  if (query.user) user.find(query.user);
}

/** Tells of rows that are not shown. */
const part = (shown, all) => (shown < all ? h('p', { class: 'hint' }, `${count(shown)} of ${count(all)} are shown.`) : '');

/** A form that looks one name up. */
function lookup(label, hint, find) {
  const input = h('input', { type: 'search', required: true, maxlength: 255, autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' });
  const found = h('div', { class: 'found', role: 'status' });
  let asked = 0; // only the newest question's answer is shown
  const run = async (name) => {
    const mine = (asked += 1);
    input.value = name;
    found.replaceChildren();
    const answer = await find(name).catch((error) => [h('p', { class: 'empty' }, error.message)]);
    if (mine === asked) found.replaceChildren(...answer.filter(Boolean));
  };
  const form = h('form', {
    onsubmit: (event) => {
      event.preventDefault();
      run(input.value);
    },
  }, field(label, h('div', { class: 'row' }), hint));
  const row = form.querySelector('.row');
  input.id = row.id;
  input.setAttribute('aria-describedby', row.getAttribute('aria-describedby'));
  row.removeAttribute('id');
  row.removeAttribute('aria-describedby');
  row.append(input, h('button', { type: 'submit', class: 'quiet' }, 'Look up'));
  return { element: h('section', { class: 'card' }, form, found), find: run };
}
