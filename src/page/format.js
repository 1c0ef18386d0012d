// Numbers and times for people (pure).

const whole = new Intl.NumberFormat('en');
const SIZES = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** `12,345`; large ones short: `1.2 M`. */
export function count(number) {
  if (number === undefined || number === null || !Number.isFinite(number)) return '–';
  if (number >= 10_000_000) return `${(number / 1e6).toFixed(number >= 1e8 ? 0 : 1)} M`;
  return whole.format(Math.round(number));
}

/** A number by second: small ones with a digit behind the point. */
export function rate(number) {
  if (number === undefined || number === null || !Number.isFinite(number)) return '–';
  return number > 0 && number < 10 ? number.toFixed(1) : count(number);
}

/** `3.4 MiB`. */
export function bytes(number) {
  if (number === undefined || number === null || !Number.isFinite(number)) return '–';
  let size = number, unit = 0;
  while (size >= 1024 && unit < SIZES.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size < 10 && unit ? size.toFixed(1) : Math.round(size)} ${SIZES[unit]}`;
}

/** A time in seconds, for a delay: `340 µs`, `12 ms`, `1.5 s`. */
export function delay(seconds) {
  if (seconds === undefined || seconds === null || !Number.isFinite(seconds)) return '–';
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${seconds < 0.01 ? (seconds * 1e3).toFixed(1) : Math.round(seconds * 1e3)} ms`;
  return `${seconds.toFixed(1)} s`;
}

/** A long time in seconds: `45 s`, `12 min`, `3 h 20 min`, `5 d 2 h`. */
export function duration(seconds) {
  const [s, min, hours, days] = [seconds, seconds / 60, seconds / 3600, seconds / 86_400].map(Math.floor);
  if (s < 60) return `${Math.max(s, 0)} s`;
  if (min < 60) return `${min} min`;
  if (hours < 24) return min % 60 ? `${hours} h ${min % 60} min` : `${hours} h`;
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

/** How long ago a point in time was. */
export const ago = (when, now = Date.now()) => duration((now - new Date(when)) / 1000);

/** A point in time, in the reader's own zone; of today only the time. */
export function moment(when, now = new Date()) {
  const at = new Date(when);
  if (Number.isNaN(at.getTime())) return '–';
  const time = at.toLocaleTimeString('en-GB');
  return at.toDateString() === now.toDateString() ? time : `${at.toLocaleDateString('en-CA')} ${time}`;
}

/** What an action may not have reached, to stand behind what it did; nothing if it reached all nodes. */
export function shortfall({ reach, unreached, silent = [] }) {
  const intro = { this_node_only: 'Only this node holds to it', all_nodes: 'Others may learn of it later' }[reach] ?? 'Other nodes could not be told';
  if (unreached || reach === 'this_node_only') return ` ${intro}${unreached ? `: ${unreached}` : ''}`;
  return silent.length ? ` No answer came from ${silent.join(', ')}` : '';
}

/** `1 session`, `2 sessions`. */
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/**
 * A name that a client chose, so that it can be seen and clicked. One without a visible character is told by
 * its code points.
 */
export function named(name) {
  if (/[^\p{White_Space}\p{C}\p{Default_Ignorable_Code_Point}\u2800]/u.test(name)) return name;
  if (!name) return '(no name)';
  const points = [...name].map((character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`);
  return `(blank: ${points.slice(0, 8).join(' ')}${points.length > 8 ? ' …' : ''})`;
}
