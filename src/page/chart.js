// A chart that moves, drawn by hand: now is at the right, and five minutes ago at the left.

import { h, s } from './dom.js';
import { bytes } from './format.js';
import { KEPT } from './series.js';

const [WIDTH, HEIGHT, TOP] = [300, 72, 6];

/**
 * A round number that is not below `most`, so that the scale does not jump with each point. Sizes are
 * round in powers of 2.
 */
export function ceiling(most, isSize = false) {
  if (!(most > 0)) return 1;
  if (isSize) return 2 ** Math.ceil(Math.log2(most));
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= most);
}

/** The pieces of a line, by time: there is none where no number is known. */
export function pieces(points, most, now) {
  const found = [];
  let piece = null;
  for (const { at, value } of points) {
    // While nothing is asked, points get older than the picture is wide.
    if (value === undefined || now - at > KEPT) {
      piece = null;
      continue;
    }
    if (!piece) found.push((piece = []));
    piece.push([WIDTH * (1 - (now - at) / KEPT), TOP + (HEIGHT - TOP) * (1 - value / most)]);
  }
  return found;
}

const line = (piece) => piece.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join('L');

function shape(points, most) {
  const all = pieces(points, most, Date.now());
  // A point alone is a dot: a line of no length, with round ends, and no area below it.
  const dot = (piece) => (piece.length === 1 ? [piece[0], piece[0]] : piece);
  const wide = all.filter((piece) => piece.length > 1);
  return {
    line: all.map((piece) => `M${line(dot(piece))}`).join(''),
    area: wide.map((piece) => `M${piece[0][0].toFixed(1)},${HEIGHT}L${line(piece)}L${piece.at(-1)[0].toFixed(1)},${HEIGHT}Z`).join(''),
  };
}

/** One or two series, in words and as a picture. Lines: `[{ name, series }]`; `show` writes a number. */
export class Chart {
  #lines;
  #show;
  #title;
  #values;
  #scale = h('span', { class: 'chart-scale', 'aria-hidden': 'true' });
  #picture = s('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img' });
  #empty;
  #isAlone;

  constructor(title, lines, show, empty = 'No figure yet.') {
    [this.#title, this.#lines, this.#show] = [title, lines, show];
    this.#isAlone = lines.length === 1;
    this.#values = lines.map(() => h('b', {}));
    this.#empty = h('p', { class: 'chart-empty' }, empty);
    this.#picture.append(
      s('line', { class: 'grid', x1: 0, x2: WIDTH, y1: TOP, y2: TOP }),
      s('line', { class: 'grid', x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }),
      ...lines.flatMap((_, index) => [s('path', { class: `area line-${index}` }), s('path', { class: `line line-${index}` })]),
    );
    this.element = h('section', { class: 'card chart' },
      h('h3', {}, title),
      h('p', { class: 'chart-values' }, lines.map(({ name }, index) =>
        h('span', { class: `key line-${index}` }, this.#values[index], this.#isAlone ? '' : ` ${name}`))),
      h('div', { class: 'chart-picture' }, this.#picture, this.#scale, this.#empty),
      h('p', { class: 'chart-time', 'aria-hidden': 'true' }, h('span', {}, '5 min ago'), h('span', {}, 'now')));
    this.draw();
  }

  draw() {
    const isKnown = this.#lines.some(({ series }) => series.isKnown);
    this.#empty.hidden = isKnown;
    this.#picture.toggleAttribute('hidden', !isKnown);
    this.#scale.hidden = !isKnown;
    const most = ceiling(Math.max(...this.#lines.map(({ series }) => series.most)), this.#show === bytes);
    this.#scale.textContent = this.#show(most);
    const words = this.#lines.map(({ name, series }, index) => {
      const { line, area } = shape(series.points, most);
      const [areas, lines] = [`.area.line-${index}`, `.line.line-${index}`].map((found) => this.#picture.querySelector(found));
      areas.setAttribute('d', area);
      lines.setAttribute('d', line);
      this.#values[index].textContent = this.#show(series.last);
      return `${this.#isAlone ? '' : `${name} `}${this.#show(series.last)}, at most ${this.#show(series.isKnown ? series.most : undefined)}`;
    });
    this.#picture.setAttribute('aria-label', `${this.#title}, the last five minutes: now ${words.join('; ')}`);
  }
}
