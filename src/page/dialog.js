// Questions, and short news.

import { h } from './dom.js';

/**
 * Asks before something is done. `fields` stand in the dialog; `act` does it, and an error that it
 * throws is shown there; as news, if the dialog was closed meanwhile, for what has begun goes on. Resolves
 * to true once it is done.
 */
export function ask({ title, text, fields = [], button, isDanger = true, act }) {
  return new Promise((resolve) => {
    const error = h('p', { class: 'error', role: 'alert', hidden: true });
    const cancel = h('button', { type: 'button', class: 'quiet', onclick: () => dialog.close() }, 'Cancel');
    const submit = h('button', { type: 'submit', class: isDanger ? 'danger' : 'primary' }, button);
    let isActing = false;
    const form = h('form', {
      method: 'dialog',
      onsubmit: async (event) => {
        event.preventDefault();
        submit.disabled = isActing = true;
        try {
          await act();
          resolve(true);
          dialog.close();
        } catch (problem) {
          error.textContent = problem.message;
          error.hidden = false;
          if (!dialog.isConnected) {
            tell(`${title} ${problem.message}`);
            resolve(false);
          }
        }
        submit.disabled = isActing = false;
      },
    }, h('h2', { id: 'question' }, title), h('p', {}, text), fields, error, h('div', { class: 'buttons' }, cancel, submit));
    const dialog = h('dialog', {
      class: 'question', 'aria-labelledby': 'question',
      onclose: () => {
        dialog.remove();
        if (!isActing) resolve(false);
      },
    }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Tells something that was done; it goes by itself. */
export function tell(text) {
  const note = h('p', { class: 'note' }, text);
  document.getElementById('notes').append(note);
  setTimeout(() => note.remove(), 8_000);
}

/** The kick's and the ban's question. */
export const reasonInput = () => h('input', { type: 'text', maxlength: 256, autocomplete: 'off' });
