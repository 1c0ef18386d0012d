// The configuration in force, and where each value came from.

import { ask, tell } from '../dialog.js';
import { check, h, pill, table } from '../dom.js';
import { count, plural } from '../format.js';

export const title = 'Configuration';
export const scope = 'read';

export function show({ api, root }) {
  const search = h('input', { type: 'search', placeholder: 'key or value', 'aria-label': 'Filter keys', autocomplete: 'off', spellcheck: 'false', oninput: () => draw() });
  const onlySet = h('input', { type: 'checkbox', onchange: () => draw() });
  const total = h('p', { class: 'soft', role: 'status' });
  const list = h('div', { class: 'stack' });
  const difference = h('div', { id: 'difference', role: 'status' });
  const button = (text, act, kind = 'quiet') => h('button', { type: 'button', class: kind, onclick: act }, text);
  let configuration;
  let [asked, compared] = [0, 0]; // only the newest question's answer is shown
  const tools = h('div', { class: 'tools' }, h('div', { class: 'search' }, search, h('kbd', { 'aria-hidden': 'true' }, '/')), check('Only keys that are set', onlySet),
    api.may('admin') ? h('div', { class: 'buttons' }, button('Compare with the file', compare), button('Reload', reload)) : '');
  root.append(h('h1', {}, title), h('p', { class: 'soft' }, 'Of the node that serves this page. Secrets are not shown.'), tools, difference, total, list);

  async function load() {
    const mine = (asked += 1);
    try {
      const answer = await api.get('/api/v1/config');
      if (mine !== asked) return;
      configuration = answer;
      draw();
    } catch (error) {
      if (mine !== asked) return;
      tools.hidden = error.status === 409; // there is nothing to filter, compare or read again
      list.replaceChildren(h('p', { class: 'empty' }, error.status === 409 ? 'This gateway was started without a configuration file, as the demo is.' : error.message));
    }
  }

  function draw() {
    if (!configuration) return;
    const text = search.value.trim().toLowerCase();
    const meant = configuration.keys.filter(({ section, key, value, source }) =>
      (!onlySet.checked || source) && [`[${section}] ${key}`, `${section}.${key}`, value ?? '', source ?? ''].some((part) => part.toLowerCase().includes(text)));
    const set = configuration.keys.filter(({ source }) => source).length;
    total.textContent = `${count(meant.length)} of ${plural(configuration.keys.length, 'key')}; ${count(set)} are set${configuration.file ? `, file ${configuration.file}` : ''}.`;
    const sections = grouped(meant);
    list.replaceChildren(...(meant.length ? [...sections].map(([section, keys]) => h('section', { class: 'block' }, h('h2', {}, `[${section}]`),
      table(`Keys of ${section}`, [{ name: 'Key' }, { name: 'Value', long: true }, { name: 'From', long: true }, { name: 'Change takes', minor: true }],
        keys.map(({ key, value, source, reloads }) => [
          h('code', {}, key), value === undefined ? h('span', { class: 'soft' }, 'not set') : h('code', { class: 'value' }, value),
          source ? h('code', {}, source) : h('span', { class: 'soft' }, 'default'), reloads ? 'a reload' : 'a restart']), '')))
      : [h('p', { class: 'empty' }, 'No key has that in it.')]));
  }

  async function compare() {
    const mine = (compared += 1);
    const answer = await api.post('/api/v1/config/compare', {}).then(
      (outcome) => differenceOf(outcome, 'The file says the same as what is in force.'),
      (error) => [h('pre', { class: 'error' }, error.message)]);
    if (mine === compared) difference.replaceChildren(...answer);
  }

  async function reload() {
    let outcome;
    const isDone = await ask({
      title: 'Reload the configuration?', text: 'The file is read again, and put in force: all of it, or, on any error, nothing. Sessions live on.', button: 'Reload', isDanger: false,
      act: async () => {
        outcome = await api.post('/api/v1/config/reload');
      },
    });
    if (!isDone) return;
    tell('Reloaded.');
    compared += 1;
    difference.replaceChildren(...differenceOf(outcome, 'Reloaded; nothing had changed.'));
    load();
  }

  load();
}

function differenceOf({ changed, needs_restart: waiting }, same) {
  if (!changed.length && !waiting.length) return [h('p', { class: 'done' }, same)];
  const row = (kind, words) => ({ key, old, new: value, secret }) =>
    [h('code', {}, key), secret ? 'a secret' : h('code', {}, old ?? 'not set'), secret ? 'another secret' : h('code', {}, value ?? 'not set'), pill(kind, words)];
  return [table('Difference', [{ name: 'Key' }, { name: 'In force', long: true }, { name: 'In the file', long: true }, { name: 'Takes' }],
    [...changed.map(row('good', 'a reload')), ...waiting.map(row('warn', 'a restart'))], '')];
}

function grouped(keys) {
  const sections = new Map();
  for (const key of keys) sections.set(key.section, [...(sections.get(key.section) ?? []), key]);
  return sections;
}
