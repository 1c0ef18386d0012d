// Elements, made by calls. Text is always text, whatever stands in it: names come from clients.

const SVG = 'http://www.w3.org/2000/svg';

function fill(made, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked' || name === 'disabled') made[name] = value;
    else made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return made;
}

/** A new element. Strings among its children become text. */
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same in SVG. */
export function s(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/**
 * A table. Columns: `{ name, number, minor, long }`; minor ones are left out where there is no room, and
 * long ones break where they must.
 */
export function table(caption, columns, rows, empty) {
  const cells = (tag, values) =>
    values.map((value, index) => {
      const { number, minor, long } = columns[index];
      const classes = [number && 'number', minor && 'minor', long && 'long'].filter(Boolean).join(' ');
      return h(tag, { class: classes || undefined, scope: tag === 'th' ? 'col' : undefined }, value);
    });
  const head = columns.map(({ name, hidden }) => (hidden ? h('span', { class: 'unseen' }, name) : name));
  if (!rows.length) return h('p', { class: 'empty' }, empty);
  return h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption },
    h('table', {},
      h('caption', { class: 'unseen' }, caption),
      h('thead', {}, h('tr', {}, cells('th', head))),
      h('tbody', {}, rows.map((row) => h('tr', {}, cells('td', row))))));
}

/** A list of names and values. Values that are not there are left out. */
export function facts(...pairs) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== '' && value !== false);
  return h('dl', { class: 'facts' }, shown.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}

/** A labelled control of a form, with a hint below it. */
export function field(label, control, hint) {
  const id = (control.id ||= `f${(fields += 1)}`);
  if (hint) control.setAttribute('aria-describedby', `${id}-hint`);
  return h('div', { class: 'field' },
    h('label', { for: id }, label), control, hint && h('p', { class: 'hint', id: `${id}-hint` }, hint));
}

/**
 * Shows other children in a place, and leaves the reader where it was: the focus, by `data-key`; tables
 * that were scrolled; and a text that is being selected, for which the next time is early enough.
 */
export function redraw(place, ...children) {
  const selection = getSelection();
  if (selection && !selection.isCollapsed && place.contains(selection.anchorNode)) return;
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const scrolled = [...place.querySelectorAll('.scroll')].map((region) => region.scrollLeft);
  place.replaceChildren(...children);
  const regions = [...place.querySelectorAll('.scroll')];
  regions.forEach((region, index) => (region.scrollLeft = scrolled[index] ?? 0));
  if (!focused) return;
  const { key } = focused.dataset;
  const again = key && place.querySelector(`[data-key="${CSS.escape(key)}"]`);
  (again || regions[0])?.focus({ preventScroll: true });
}

let fields = 0;

/** A check box and its label. */
export function check(label, control) {
  return h('label', { class: 'check' }, control, label);
}

/** A word in a coloured pill: `good`, `bad`, `warn` or `plain`. */
export const pill = (kind, text) => h('span', { class: `pill ${kind}` }, text);

/** A user's status, as a pill. */
export const status = (word) => pill({ online: 'good', busy: 'bad', away: 'warn' }[word] ?? 'plain', word);

/** A command for a shell. Its lines break between words, and not behind a hyphen. */
export const command = (text) => h('code', {}, text.split(' ').flatMap((word) => [' ', h('span', { class: 'word' }, word)]).slice(1));
