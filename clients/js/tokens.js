// The application's tokens: one before each connecting, and new ones while a session lives.

import { Problem } from './advice.js';
import { after, Alarm, readExpiry, renewAfter } from './pace.js';

const GIVEN_UP = 2; // seconds: with less left, the session ends, and a new one begins with a new token
const CONTROL = /[\0-\x1f\x7f]/;

export class Tokens {
  #getToken;
  #timeout;
  #onProblem;
  #onNone;
  #wish; // the AbortController of the call that is under way
  #connection; // whose session is kept
  #alarm = new Alarm();
  #expiry; // when the session ends, by the clock
  /** The server did not take the last one: until there is another, each is asked for with this reason. */
  isRefused = false;

  /** `onProblem(problem)`: no token for now. `onNone(problem)`: a renewal finds that nobody is logged in any more. */
  constructor(getToken, timeout, onProblem, onNone) {
    this.canRenew = getToken !== undefined;
    this.#getToken = getToken;
    this.#timeout = timeout;
    this.#onProblem = onProblem;
    this.#onNone = onNone;
  }

  /** Asks for a token; undefined without a getter. */
  async get(purpose) {
    if (!this.#getToken) return undefined;
    const wish = new AbortController();
    const { signal } = wish;
    const reason = this.isRefused ? 'refused' : purpose;
    this.#wish = wish;
    const aborted = new Promise((_, reject) => { signal.addEventListener('abort', () => reject(signal.reason)); });
    const timer = after(this.#timeout, () => wish.abort(new Error('getToken() took too long')));
    let token;
    try {
      const asked = (async () => this.#getToken({ reason, signal }))();
      const given = await Promise.race([asked, aborted]);
      token = given && String(given).trim();
      // CONNECT cannot escape the end of a line: a page of an error, say, would be read as headers.
      if (token && CONTROL.test(token)) throw new Error('getToken() gave a text with control characters');
    } catch (cause) {
      const problem = new Problem('token-unavailable', 'getToken() failed', { cause });
      if (this.#wish === wish) this.#onProblem(problem); // or nobody waits for it
      throw problem;
    } finally {
      clearTimeout(timer);
      if (this.#wish === wish) this.#wish = undefined;
    }
    if (!token) throw new Problem('no-token', 'getToken() has no token', { next: 'stop' });
    this.isRefused = false;
    return token;
  }

  /** Renews in time, where a header of CONNECTED, or of a renewal's RECEIPT, says how long the session lives. */
  keep(connection, headers) {
    const seconds = readExpiry(headers['expires-in']);
    if (seconds === undefined || !this.canRenew) return;
    this.#connection = connection;
    this.#expiry = Date.now() + seconds * 1_000;
    this.#alarm.set(renewAfter(seconds), () => this.#renew(connection));
  }

  check() {
    this.#alarm.check();
  }

  /** The session is over, or none is wished for: nobody waits for a token any more. */
  stop() {
    const wish = this.#wish;
    this.#wish = undefined;
    this.#connection = undefined;
    this.#alarm.clear();
    wish?.abort(new Error('nobody waits for the token any more'));
  }

  async #renew(connection) {
    try {
      const token = await this.get('renew');
      if (connection !== this.#connection) return;
      const write = (stomp, receipt) => stomp.publish({ destination: '/auth/renew', headers: { token, receipt } });
      const { headers } = await connection.request(write, this.#timeout);
      if (connection === this.#connection) this.keep(connection, headers);
    } catch (problem) { // told already; as long as the session lives, it is tried again
      const { code, next, seconds = 0 } = problem;
      const left = (this.#expiry - Date.now()) / 1_000;
      if (connection !== this.#connection) return;
      if (code === 'no-token') this.#onNone(problem);
      if (code === 'no-token' || left < GIVEN_UP) return;
      if (next === 'renew') this.isRefused = true;
      this.#alarm.set(Math.max(seconds * 1_000, renewAfter(left)), () => this.#renew(connection));
    }
  }
}
