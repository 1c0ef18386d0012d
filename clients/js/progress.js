// Where a subscription stands in the journal of its exchange, so that it comes back there. The
// protocol: docs/catching-up.md of the gateway.

import { Problem } from './advice.js';

const MARGIN = 10_000; // milliseconds by which the servers' clocks may differ
const GAPS = ['next', 'earliest', 'fail'];
const BEGINNINGS = ['last', 'since'];
const CURSOR = /^[!-~]{1,200}$/; // it is opaque; what is none of this was not written by us

/** Headers that no journal goes with: of subscriptions with a queue of their own, or that skip messages. */
const OTHERS = ['durable', 'auto-delete', 'exclusive', 'persistent', 'prefetch-count', 'x-queue-name', 'redeliver', 'conflate'];

export class Progress {
  #gap;
  #begin; // headers of the first SUBSCRIBE, where there is no cursor
  #storage;
  #key;
  #cursor; // of the last message
  #at; // since when it has heard all, by this clock: for a subscription that had no message yet
  #asked = {}; // the last SUBSCRIBE: `with` a cursor, a time or nothing, and `at` which time
  #isUnkept = false; // the server keeps no journal of it
  #onFault;

  /** `wish`: the option `resume`. `owner` names the user and the destination. `onFault(problem)`: the storage failed. */
  constructor(wish, headers, owner, onFault) {
    const { gap = 'next', storage, key = owner, begin = {} } = wish === true ? {} : wish;
    const other = OTHERS.find((name) => headers[name] !== undefined);
    if (other || (headers.ack ?? 'auto') !== 'auto') throw new TypeError(`with resume, a subscription has no header ${other ?? 'ack'}`);
    if (!GAPS.includes(gap)) throw new TypeError(`resume.gap is one of ${GAPS.join(', ')}, not ${gap}`);
    if (storage && !key) throw new TypeError('resume.key is missing: without headers.login, the user is not known');
    const wrong = Object.keys(begin).find((name) => !BEGINNINGS.includes(name));
    if (wrong) throw new TypeError(`resume.begin has ${BEGINNINGS.join(' or ')}, not ${wrong}`);
    this.#gap = gap;
    this.#begin = Object.fromEntries(Object.entries(begin).map(([name, value]) => [name, String(value)]));
    this.#storage = storage;
    this.#key = key;
    this.#onFault = onFault;
    this.#load();
  }

  /** Headers of the next SUBSCRIBE. */
  ask() {
    const at = Date.now();
    if (this.#cursor !== undefined) {
      this.#asked = { with: 'cursor', cursor: this.#cursor, at };
      return { 'resume-after': this.#cursor, 'resume-gap': this.#gap };
    }
    if (this.#at === undefined) {
      this.#asked = { with: undefined, at };
      return this.#begin;
    }
    this.#asked = { with: 'time', at };
    return this.#isUnkept ? {} : { since: `${Math.ceil((Math.max(0, at - this.#at) + MARGIN) / 1_000)}s` };
  }

  /** The application has had a message. */
  take({ cursor }) {
    if (cursor === undefined) return;
    this.#cursor = cursor;
    this.#isUnkept = false;
    this.#save();
  }

  /** What a RECEIPT says: `{ missed }`, or `{ gap }` with the reason; undefined where nothing could be missed. */
  answer({ resume, missed, reason, cursor }) {
    const asked = this.#asked;
    const isGap = resume === 'gap';
    if (isGap && this.#cursor === asked.cursor) this.#cursor = undefined;
    this.#cursor ??= cursor; // of the last message before it began
    if (missed !== 'more' || this.#at === undefined) this.#at = asked.at;
    this.#save();
    if (isGap) return { gap: reason };
    if (asked.with === undefined) return undefined;
    if (resume === 'exact') return { missed: missed === 'more' ? missed : Number(missed) };
    this.#isUnkept = true;
    return { gap: 'no-journal' };
  }

  /** The gap that a refusal tells, after which the next SUBSCRIBE begins anew; undefined if it is another refusal. */
  refuse({ code, reason }) {
    if (this.#asked.with === undefined) return undefined;
    const gap = { 'resume-gap': reason, 'foreign-cursor': 'foreign', 'no-journal': 'no-journal' }[code];
    if (gap === undefined && code !== 'invalid-header') return undefined;
    this.#cursor = undefined;
    this.#at = undefined;
    this.#begin = {};
    this.#isUnkept = code === 'no-journal';
    this.#save();
    return code === 'resume-gap' && this.#gap === 'fail' ? undefined : gap;
  }

  #load() {
    const { cursor, at } = this.#use((storage) => JSON.parse(storage.getItem(this.#key) ?? '{}')) ?? {};
    if (typeof cursor === 'string' && CURSOR.test(cursor)) this.#cursor = cursor;
    if (Number.isFinite(at)) this.#at = at;
  }

  #save() {
    const text = JSON.stringify({ cursor: this.#cursor, at: this.#at });
    this.#use((storage) => storage.setItem(this.#key, text));
  }

  /** A storage may be full, forbidden or hold what another wrote: then this session goes on without it. */
  #use(action) {
    try {
      return this.#storage && action(this.#storage);
    } catch (cause) {
      this.#storage = undefined;
      this.#onFault(new Problem('no-storage', 'the cursor cannot be kept: a reload may miss messages', { cause }));
      return undefined;
    }
  }
}
