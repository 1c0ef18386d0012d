// Clients that were refused, and why.

import { h, pill, redraw, table } from '../dom.js';
import { count, moment, named } from '../format.js';
import { whileSeen } from '../repeat.js';

export const title = 'Refusals';
export const scope = 'read';

const EVERY = 5_000; // milliseconds

/** What a metric counts, in words. */
const KINDS = {
  stentor_connections_ended_total: 'connection ended',
  stentor_limits_exceeded_total: 'limit',
  stentor_refused_total: 'refused',
  stentor_tokens_refused_total: 'token',
  stentor_publish_failures_total: 'publishing',
  stentor_mailbox_overflows_total: 'full mailbox',
  stentor_hook_faults_total: 'fault of the hook',
};
/** Ends that are nobody's fault. */
const ORDINARY = ['client disconnected', 'client closed the connection', 'connection broke', 'server shutting down'];

export function show({ api, root, query }) {
  const filter = h('input', { type: 'search', placeholder: 'user, address or reason', value: query.search ?? '', 'aria-label': 'Filter the last refusals', autocomplete: 'off', spellcheck: 'false', oninput: () => draw() });
  const latest = h('div', {});
  const reasons = h('div', {});
  let answer;
  root.append(h('h1', {}, title),
    h('section', { class: 'block' }, h('h2', {}, 'By reason'), reasons),
    h('h2', {}, 'The last ones'),
    h('p', { class: 'soft' }, 'Up to 200 of each node, since it started. The log has all of them.'),
    h('div', { class: 'tools' }, h('div', { class: 'search' }, filter, h('kbd', { 'aria-hidden': 'true' }, '/'))),
    latest);

  async function load() {
    try {
      answer = await api.get('/api/v1/refusals');
      draw();
    } catch (error) {
      if (!answer) latest.replaceChildren(h('p', { class: 'empty' }, error.message));
    }
    return EVERY;
  }

  function draw() {
    if (!answer) return;
    const text = filter.value.trim().toLowerCase();
    const all = answer.nodes.flatMap(({ node, recent }) => recent.map((refusal) => ({ node, ...refusal })));
    const meant = all.filter(({ cause, user, remote, session }) => [cause, user, remote, session].some((field) => field?.toLowerCase().includes(text)) || !text);
    meant.sort((a, b) => b.at.localeCompare(a.at));
    redraw(latest, table('The last refusals',
      [{ name: 'When' }, { name: 'What', minor: true }, { name: 'Why', long: true }, { name: 'User', long: true }, { name: 'Address', minor: true }, { name: 'Node', minor: true }],
      meant.map(({ at, what, cause, user, remote, node, session }) => [
        moment(at), pill('plain', what), cause,
        user ? h('a', { href: `#sessions?search=${encodeURIComponent(user)}`, 'data-key': JSON.stringify([node, at, user, session]) }, named(user)) : '–', remote ? h('code', {}, remote) : '–', h('code', {}, node)]),
      text ? 'No refusal has that in it.' : 'Nobody was refused since the nodes started.'));
    const counts = new Map();
    for (const { metric, reason, count } of answer.nodes.flatMap((node) => node.reasons)) {
      if (ORDINARY.includes(reason)) continue;
      const name = JSON.stringify([KINDS[metric] ?? metric, reason]);
      counts.set(name, (counts.get(name) ?? 0) + count);
    }
    const rows = [...counts].sort(([, a], [, b]) => b - a).map(([name, number]) => [...JSON.parse(name), count(number)]);
    redraw(reasons, table('Refusals by reason', [{ name: 'What' }, { name: 'Reason', long: true }, { name: 'How often', number: true }], rows, 'No refusal was counted.'));
  }

  return { leave: whileSeen(load) };
}
