// Where a subscription stands in the journal of its exchange, so that it comes back there. The
// protocol: docs/catching-up.md of the gateway.

import { Problem } from './advice.js';

const MARGIN = 10_000; // milliseconds by which the servers' clocks may differ
const HELD = 10_000; // messages that are held back: rather give some twice than none
const GAPS = ['next', 'earliest', 'fail'];
const BEGINNINGS = ['last', 'since'];
const isCursor = (text) => typeof text === 'string' && /^[!-~]{1,200}$/.test(text); // it is opaque; what is none of this was not written by us

/** Headers that no journal goes with: of subscriptions with a queue of their own, or that skip messages. */
const OTHERS = ['durable', 'auto-delete', 'exclusive', 'persistent', 'prefetch-count', 'x-queue-name', 'redeliver', 'conflate'];

export class Progress {
  #gap;
  #begin; // headers of the first SUBSCRIBE, where there is no cursor
  #storage;
  #isFailing = false; // the storage, which was told
  #key;
  #formerKey; // is read as long as nothing is kept by the other
  #cursor; // of the last message
  #origin; // the cursor behind which no answer says yet that nothing is missing up to `#cursor`
  #at; // since when it has heard all, by this clock: for a subscription that had no message yet
  #ticks; // the same by the page's own time, which nobody sets back; it may stand still while the device sleeps
  #asked = {}; // the last SUBSCRIBE: `with` a cursor, a time, history (`#begin`) or nothing, and `at` which time; see `ask`
  #held = []; // messages that may have come before
  #isUnkept = false; // the server keeps no journal of it
  #owed; // the reason of a gap that the next RECEIPT tells: what comes before it, nobody hears
  #onFault;
  #isUnread = false;

  /** `wish`: the option `resume`. `owners` name the virtual host, the user and the destination; and those without the host, if it is known. `onFault(problem)`: the storage failed. */
  constructor(wish, headers, owners, onFault) {
    const [ownKey, formerKey] = (owners ?? []).map((owner) => `stentor-cursor ${owner}`);
    const { gap = 'next', storage, key = ownKey, begin = {} } = wish === true ? {} : wish;
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
    this.#formerKey = key === ownKey ? formerKey : undefined;
    this.#onFault = onFault;
    this.#load();
  }

  /** The name of what it stores; undefined where nothing is stored. */
  get key() {
    return this.#storage && this.#key;
  }

  /**
   * Headers of the next SUBSCRIBE. Messages come before the RECEIPT that tells of a gap. If the connection is lost
   * between the two, nobody has said whether some are missing before them. So it asks from the same cursor once more,
   * and leaves out what comes `again`: all up to the last one that had come, `until`.
   */
  ask() {
    if (this.#isUnread && this.#cursor === undefined && this.#at === undefined) this.#load();
    const at = Date.now();
    const ticks = performance.now();
    this.#held = [];
    if (this.#cursor !== undefined) {
      const cursor = this.#origin ?? this.#cursor;
      this.#asked = { with: 'cursor', at, ticks, cursor, last: this.#cursor, until: this.#origin && this.#cursor, most: HELD, again: 0, isOpen: true };
      return { 'resume-after': cursor, 'resume-gap': this.#gap };
    }
    if (this.#at === undefined) {
      this.#asked = { with: Object.keys(this.#begin).length > 0 ? 'history' : undefined, at, ticks, most: HELD, again: 0 };
      return this.#begin;
    }
    this.#asked = { with: 'time', at, ticks, most: HELD, again: 0 };
    const away = Math.max(0, at - this.#at, ticks - (this.#ticks ?? ticks)); // after a reload there is the clock alone
    return this.#isUnkept ? {} : { since: `${Math.ceil((away + MARGIN) / 1_000)}s` };
  }

  /** The messages that the application gets now: this one, none while they may have come before, or all that were held. */
  sift(message) {
    const asked = this.#asked;
    if (asked.until === undefined) return [message];
    this.#held.push(message);
    if (message.headers.cursor !== asked.until) return this.#held.length < asked.most ? [] : this.#release();
    asked.again = this.#held.length;
    this.#release();
    return [];
  }

  /** The application has had a message. */
  take({ cursor }) {
    if (cursor === undefined) return;
    if (this.#asked.isOpen) this.#origin ??= this.#asked.cursor;
    this.#cursor = cursor;
    this.#isUnkept = false;
    this.#save();
  }

  /**
   * What a RECEIPT says: `{ missed }`, or `{ gap }` with the reason, and messages that the application gets now, `held`;
   * undefined where nothing could be missed.
   */
  answer({ resume, missed, reason, cursor }) {
    const asked = this.#asked;
    const isGap = resume === 'gap';
    asked.isOpen = false;
    this.#origin = undefined;
    if (isGap && this.#cursor === asked.last && !asked.again) this.#cursor = undefined;
    this.#cursor ??= cursor; // of the last message before it began
    if (missed !== 'more' || this.#at === undefined) [this.#at, this.#ticks] = [asked.at, asked.ticks];
    const gap = isGap ? reason : this.#owed;
    this.#owed = undefined;
    this.#save();
    if (gap !== undefined) return { gap, held: this.#release() }; // the last one that came may be missing itself
    if (asked.with === undefined || asked.with === 'history') return undefined;
    if (resume === 'exact') {
      const count = missed === 'more' ? Infinity : Number(missed);
      asked.most = Math.min(asked.most, count);
      const held = this.#held.length < asked.most ? [] : this.#release();
      return { missed: count === Infinity || asked.until !== undefined ? 'more' : count - asked.again, held };
    }
    this.#isUnkept = true;
    return { gap: 'no-journal', held: this.#release() };
  }

  /** Whether a refusal tells a gap, so that the next SUBSCRIBE begins anew: its RECEIPT is the answer that tells the gap. */
  refuse({ code, reason }) {
    if (this.#asked.with === undefined) return false;
    const gap = { 'resume-gap': reason, 'foreign-cursor': 'foreign', 'no-journal': 'no-journal' }[code];
    if (gap === undefined && code !== 'invalid-header') return false;
    this.#cursor = undefined;
    this.#origin = undefined;
    this.#at = undefined;
    this.#begin = {};
    this.#isUnkept = code === 'no-journal';
    const isAnew = gap !== undefined && !(code === 'resume-gap' && this.#gap === 'fail');
    if (isAnew) this.#owed = gap;
    this.#save();
    return isAnew;
  }

  /** Whatever was to be left out has come. */
  #release() {
    const held = this.#held;
    this.#held = [];
    this.#asked.until = undefined;
    return held;
  }

  #load() {
    const keys = [this.#key, this.#formerKey].filter(Boolean);
    const read = (storage) => keys.map((key) => storage.getItem(key)).find((text) => text !== null);
    const stored = this.#use((storage) => JSON.parse(read(storage) ?? '{}'));
    this.#isUnread = stored === undefined; // a phone that is locked, say: before anything is written over it, it is read again
    const { cursor, origin, at } = stored ?? {};
    if (isCursor(cursor)) this.#cursor = cursor;
    if (isCursor(cursor) && isCursor(origin)) this.#origin = origin;
    if (Number.isFinite(at)) this.#at = at;
  }

  /** But while a gap is owed, what is stored stays, so that a reload hears of the gap, too. */
  #save() {
    if (this.#owed !== undefined) return;
    const text = JSON.stringify({ cursor: this.#cursor, origin: this.#origin, at: this.#at });
    this.#use((storage) => {
      storage.setItem(this.#key, text);
      this.#isFailing = false;
    });
  }

  /** A storage may be full or forbidden for a time, or hold what another wrote: it is tried again, and told once until it has kept something. */
  #use(action) {
    try {
      return this.#storage && action(this.#storage);
    } catch (cause) {
      const isTold = this.#isFailing;
      this.#isFailing = true;
      if (!isTold) this.#onFault(new Problem('no-storage', 'the cursor cannot be kept: a reload may miss messages, or get some twice', { cause }));
      return undefined;
    }
  }
}
