// A message, as a backend publishes it.

import { check, field, h, table } from '../dom.js';
import { plural } from '../format.js';

export const title = 'Publish';
export const scope = 'publish';

/** What was filled in, and by whose token: a form outlives its view, and a token that ends while it is filled in. */
let draft;

export function show({ api, root }) {
  const owner = api.name;
  const text = (properties) => h('input', { type: 'text', maxlength: 255, autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false', ...properties });
  const exchange = text({ id: 'exchange', placeholder: 'feed' });
  const keys = h('textarea', { id: 'keys', rows: 2, required: true, autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false', placeholder: 'user_alice' });
  const body = h('textarea', { id: 'body', rows: 6 });
  const type = text({ id: 'type', placeholder: 'text/plain' });
  const vhost = text({ id: 'vhost' });
  const persistent = h('input', { type: 'checkbox' });
  const mandatory = h('input', { type: 'checkbox', checked: true });
  const outcome = h('div', { id: 'outcome', role: 'status' });
  const button = h('button', { type: 'submit', class: 'primary' }, 'Publish');
  const form = h('form', {
    class: 'card', onsubmit: async (event) => {
      event.preventDefault();
      button.disabled = true;
      outcome.replaceChildren();
      try {
        const { published } = await api.post('/api/v1/publish', {
          exchange: exchange.value, keys: keys.value.split('\n').map((key) => key.trim()).filter(Boolean), body: body.value,
          content_type: type.value || undefined, vhost: vhost.value || undefined, persistent: persistent.checked, mandatory: mandatory.checked,
        });
        outcome.append(h('p', { class: 'done' }, `${plural(published, 'message')} published: the broker has confirmed ${published === 1 ? 'it' : 'each'}.`));
      } catch (error) {
        outcome.append(...failure(error));
      }
      button.disabled = false;
    },
  },
  h('div', { class: 'pair' }, field('Exchange', exchange, 'Empty: the default exchange, where a key is a queue’s name.'), field('Virtual host', vhost, 'Empty: the gateway’s default one.')),
  field('Routing keys', keys, 'One a line; the message goes out with each.'),
  field('Body', body),
  field('Content type', type),
  h('div', { class: 'checks' }, check('Persistent', persistent), check('Tell me if it reaches no queue (mandatory)', mandatory)),
  h('div', { class: 'buttons' }, button), outcome);
  root.append(h('h1', {}, title), h('p', { class: 'soft' }, 'No user’s permissions are asked, and no client counts as the sender.'), form);

  const texts = [exchange, keys, body, type, vhost];
  const boxes = [persistent, mandatory];
  if (draft?.owner === owner) {
    texts.forEach((control, index) => (control.value = draft.texts[index]));
    boxes.forEach((box, index) => (box.checked = draft.boxes[index]));
  }
  return {
    leave() {
      draft = { owner, texts: texts.map(({ value }) => value), boxes: boxes.map(({ checked }) => checked) };
    },
  };
}

function failure(error) {
  const failed = error.body?.failed ?? [];
  return [
    h('p', { class: 'error', role: 'alert' }, `${error.field ? `${error.field}: ` : ''}${error.message}`),
    failed.length ? table('Keys that failed', [{ name: 'Key', long: true }, { name: 'Why' }, { name: 'In words', long: true }],
      failed.slice(0, 50).map(({ key, reason, detail }) => [h('code', {}, key), reason, detail]), '') : '',
  ].filter(Boolean);
}
