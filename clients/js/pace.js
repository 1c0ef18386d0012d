// How long to wait: before coming back, before renewing a token, between SUBSCRIBE frames; and an
// alarm that also rings after a device has slept. Times are in milliseconds, except where named.

const FIRST = 1_000;
const LONGEST = 30_000;
const LONGEST_TIMER = 60 * 60 * 1_000; // an engine takes at most 2^31 ms
const BURST = 10; // seconds' worth that the gateway takes at once

/**
 * The pause before an attempt: what the server advises, in seconds, and a random part. Its window is as
 * wide as what was advised, so that a crowd of clients does not come back in one instant, and doubles
 * with each failure.
 */
export function pause(seconds, failures, random = Math.random()) {
  const window = Math.min(LONGEST, FIRST * 2 ** failures);
  return Math.round(seconds * 1_000 + random * Math.max(seconds * 1_000, window));
}

/**
 * When to renew what lives for so many seconds: at 75 to 85 % of them, but 10 s before the end, and
 * not before half of them have passed, nor sooner than in a second.
 */
export function renewAfter(seconds, random = Math.random()) {
  const due = Math.max(seconds * 0.5, Math.min(seconds * (0.75 + 0.1 * random), seconds - 10));
  return Math.max(FIRST, Math.round(due * 1_000));
}

/** The seconds in a header `expires-in`; undefined where there is none. */
export const readExpiry = (text) => (/^\d{1,10}$/.test(text ?? '') ? Number(text) : undefined);

/** A timer; none for 24 days and more (`Infinity`), where an engine would ring at once. */
export const after = (delay, ring) => (delay < 2 ** 31 ? setTimeout(ring, delay) : undefined);

/** A token bucket, as the gateway has one for the SUBSCRIBE frames of a connection. */
export class Pace {
  #rate;
  #tokens;
  #at = Date.now();

  constructor(perSecond) {
    this.#rate = perSecond;
    this.#tokens = perSecond * BURST * 0.9;
  }

  /** Takes a turn, and says for how long to wait for it. */
  take() {
    const now = Date.now();
    this.#tokens = Math.min(this.#rate * BURST * 0.9, this.#tokens + (Math.max(0, now - this.#at) * this.#rate) / 1_000) - 1;
    this.#at = now;
    return Math.max(0, (-this.#tokens * 1_000) / this.#rate);
  }
}

/**
 * Rings once, when its time has passed by the clock, or by timers. These stand still while a device sleeps, so
 * `check` it at waking; and a clock may be set back, also by hours, which delays nothing.
 */
export class Alarm {
  #timer;
  #due; // by the clock
  #rest; // by timers: milliseconds from when the last one was set
  #ring;

  set(delay, ring) {
    this.clear();
    this.#ring = ring;
    this.#due = Date.now() + delay;
    this.#rest = delay;
    this.#wait();
  }

  /** Milliseconds until it rings; infinite if it is not set. */
  get left() {
    return this.#ring ? Math.min(this.#due - Date.now(), this.#rest) : Infinity;
  }

  check() {
    if (!this.#ring) return;
    clearTimeout(this.#timer);
    if (this.left > 0) this.#wait();
    else {
      const ring = this.#ring;
      this.#ring = undefined;
      ring();
    }
  }

  clear() {
    clearTimeout(this.#timer);
    this.#ring = undefined;
  }

  #wait() {
    const step = Math.min(Math.max(0, this.left), LONGEST_TIMER);
    this.#timer = setTimeout(() => {
      this.#rest -= step;
      this.check();
    }, step);
  }
}
