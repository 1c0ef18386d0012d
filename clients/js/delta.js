// Messages that come as deltas: differences to the last message of the same destination, which SUBSCRIBE asks for by
// `delta:fossil`. The protocol: docs/fast-keys.md of the gateway. The format of a delta is Fossil's: numbers of base 64,
// and commands to copy from the base, or to take bytes that follow.

import { Problem } from './advice.js';

const BASES = 256; // destinations of a subscription that the server may refer to
const LONGEST = 64 * 1024; // of a body: the server makes deltas of bodies of 16 KiB at most
const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~';
const VALUES = new Map([...DIGITS].map((digit, value) => [digit.charCodeAt(0), value]));
const [COPY, COMMA, TAKE, END, NEW_LINE] = [...'@,:;\n'].map((char) => char.charCodeAt(0));

/** The last bodies that a subscription has had, by destination. */
export class Bases {
  #last = new Map(); // destination -> { number, body }, the newest at the end

  /** The message with its whole body. Throws a Problem where that cannot be made. */
  take(message) {
    const { destination, 'x-delta': told } = message.headers;
    if (told === undefined) {
      this.#last.delete(destination); // the server makes no delta of it, nor to it, nor to the one before
      return message;
    }
    const [kind, number, base] = told.split(' ');
    let body = message.binaryBody;
    if (kind !== 'whole') {
      const known = this.#last.get(destination);
      if (kind !== 'fossil' || known === undefined || known.number !== base) {
        throw new Problem('no-delta-base', `the message ${told} of ${destination} has no base here`);
      }
      body = apply(known.body, body);
    }
    this.#last.delete(destination);
    if (body.length <= LONGEST) this.#last.set(destination, { number, body });
    if (this.#last.size > BASES) this.#last.delete(this.#last.keys().next().value);
    return kind === 'whole' ? message : withBody(message, body);
  }
}

function withBody(message, body) {
  const headers = { ...message.headers, 'content-length': String(body.length) };
  return Object.create(message, {
    headers: { value: headers, enumerable: true },
    binaryBody: { value: body, enumerable: true },
    body: { get: () => new TextDecoder().decode(body), enumerable: true },
  });
}

/** The body that a delta makes of its base. Throws a Problem: it is no delta, or is not to this base. */
export function apply(base, delta) {
  let at = 0;
  const wrong = (words) => new Problem('bad-delta', `the delta is wrong at byte ${at}: ${words}`);
  const number = () => {
    const start = at;
    let value = 0;
    for (; VALUES.has(delta[at]); at += 1) value = value * 64 + VALUES.get(delta[at]);
    if (at === start || value > 0xffff_ffff) throw wrong('no number');
    return value;
  };
  const expect = (char) => {
    if (delta[at] !== char) throw wrong('another character');
    at += 1;
  };
  const size = number();
  if (size > LONGEST) throw wrong('too long a body');
  expect(NEW_LINE);
  const body = new Uint8Array(size);
  let done = 0;
  const add = (from, start, count) => {
    if (start + count > from.length || done + count > size) throw wrong('too many bytes');
    body.set(from.subarray(start, start + count), done);
    done += count;
  };
  for (;;) {
    const count = number();
    const command = delta[at];
    at += 1;
    if (command === COPY) {
      const start = number();
      expect(COMMA);
      add(base, start, count);
    } else if (command === TAKE) {
      add(delta, at, count);
      at += count;
    } else if (command === END) {
      if (done !== size || at !== delta.length || checksum(body) !== count) throw wrong('another body');
      return body;
    } else {
      throw wrong('no command');
    }
  }
}

/** The sum of its words of four bytes, the last one filled with zeros. */
function checksum(body) {
  let sum = 0;
  for (let at = 0; at < body.length; at += 1) sum = (sum + body[at] * 2 ** (24 - 8 * (at % 4))) % 2 ** 32;
  return sum;
}
