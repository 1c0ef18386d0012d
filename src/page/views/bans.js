// Bans in force: seen, set, lifted.

import { ask, reasonInput, tell } from '../dialog.js';
import { field, h, pill, table } from '../dom.js';
import { moment, plural, shortfall } from '../format.js';

export const title = 'Bans';
export const scope = 'read';

const TIMES = [['One hour', 3600], ['One day', 86_400], ['One week', 604_800], ['Until it is lifted', '']];
const KINDS = { user: 'User', address: 'Address', device_id: 'Device' };

export function show({ api, root }) {
  const mayBan = api.may('admin');
  const list = h('div', {});
  const more = h('button', { type: 'button', class: 'quiet', hidden: true, onclick: () => load(next) }, 'Show more');
  let shown = [], next;
  let asked = 0; // only the newest question's answer is shown
  root.append(h('h1', {}, title),
    h('p', { class: 'soft' }, 'A ban ends sessions, and keeps a user, an address or a device out, on all nodes.'),
    mayBan && h('div', { class: 'tools' }, h('button', { type: 'button', class: 'primary', onclick: ban }, 'Ban somebody')) || '',
    list, more);

  async function load(cursor) {
    const mine = (asked += 1);
    try {
      const page = await api.get('/api/v1/bans', { limit: 200, cursor });
      if (mine !== asked) return;
      shown = cursor ? [...shown, ...page.bans] : page.bans;
      next = page.next;
      draw();
    } catch (error) {
      if (mine !== asked) return;
      list.replaceChildren(h('p', { class: 'empty' }, error.message));
    }
    more.hidden = !next;
  }

  function draw() {
    const columns = [{ name: 'What' }, { name: 'Who', long: true }, { name: 'Until' }, { name: 'Reason', long: true }, { name: 'Since', minor: true }, ...(mayBan ? [{ name: 'Actions', hidden: true }] : [])];
    list.replaceChildren(table('Bans', columns, shown.map((found) => {
      const kind = Object.keys(KINDS).find((kind) => found[kind]);
      return [
        pill('plain', KINDS[kind]), h('code', {}, found[kind]), found.until ? moment(found.until) : 'it is lifted', found.reason || '–', moment(found.since),
        ...(mayBan ? [h('button', { type: 'button', class: 'quiet small', 'aria-label': `Lift the ban of ${found[kind]}`, onclick: () => lift(kind, found[kind]) }, 'Lift')] : []),
      ];
    }), 'Nobody is banned.'));
  }

  async function lift(kind, name) {
    const isDone = await ask({
      title: `Lift the ban of ${name}?`, text: 'It may log in again, on all nodes.', button: 'Lift', isDanger: false,
      act: async () => {
        const outcome = await api.delete('/api/v1/bans', { [kind]: name });
        tell(`${name} is not banned any more.${shortfall(outcome)}`);
      },
    });
    if (isDone) load();
  }

  async function ban() {
    const kind = h('select', {}, Object.entries(KINDS).map(([value, text]) => h('option', { value }, text)));
    const name = h('input', { type: 'text', required: true, maxlength: 255, autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' });
    const time = h('select', {}, TIMES.map(([text, value]) => h('option', { value }, text)));
    const reason = reasonInput();
    const isDone = await ask({
      title: 'Ban somebody', text: 'Their sessions end now.', button: 'Ban',
      fields: [field('What', kind), field('Who', name, 'A name, an address such as 192.0.2.7 or 2001:db8::/32, or a device’s id.'), field('How long', time), field('Reason', reason)],
      act: async () => {
        const seconds = time.value ? Number(time.value) : undefined;
        const outcome = await api.post('/api/v1/bans', { [kind.value]: name.value.trim(), seconds, reason: reason.value });
        tell(`Banned on ${outcome.reach === 'all_nodes' ? 'all nodes' : 'this node only'}; ${plural(outcome.hits, 'session')} ended.${shortfall(outcome)}`);
      },
    });
    if (isDone) load();
  }

  load();
}

