// A client of Stentor that comes back as the server advises. It is given the class `Client` of
// @stomp/stompjs as `Stomp`; index.js does so for those with a bundler, an import map or Node.

import { Problem } from './advice.js';
import { Connection } from './connection.js';
import { Alarm, pause } from './pace.js';
import { Subscriptions, deferred } from './subscriptions.js';
import { Tokens } from './tokens.js';

export { Problem };

const STEADY = 10_000; // milliseconds: a shorter session counts as a failure
const LIVELY = 1_000; // milliseconds: the longest pause after waking
const KEPT_USERS = 10_000; // whose newest event a watch of presence remembers
const STATUSES = ['online', 'away', 'busy', 'invisible'];

const DEFAULTS = {
  connectTimeout: 20_000, tokenTimeout: 10_000, publishTimeout: 60_000, probeTimeout: 5_000, closeTimeout: 5_000,
  subscribesPerSecond: 200, // as the gateway's limits.max_subscribes_per_second
};

export class StentorClient {
  #options;
  #state = 'idle';
  #opening; // of connect()
  #closing; // of close()
  #attempt; // the attempt to connect that counts; undefined while none is wished for. `isRenewal`: its token is one in place of a refused one
  #connection;
  #subscriptions;
  #tokens;
  #failures = 0; // since the last steady session
  #comeback = new Alarm();
  #status; // as the application wishes
  #takenStatus; // the last one that the server took
  #unsaid; // of setStatus() since the last connection
  #ears; // removes the listeners to the browser's events

  /** For the options see index.d.ts. */
  constructor(options) {
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    this.#options = { ...DEFAULTS, ...Object.fromEntries(given) };
    const { subscribesPerSecond, getToken, tokenTimeout } = this.#options;
    this.#subscriptions = new Subscriptions(subscribesPerSecond, (callback, ...values) => this.#call(callback, ...values));
    const onProblem = (problem) => this.#call(this.#options.onProblem, problem);
    this.#tokens = new Tokens(getToken, tokenTimeout, onProblem, (problem) => this.#leave(problem));
  }

  /** `idle`, `connecting`, `connected`, `waiting`, `ended` (the server does not want it back) or `closed`. */
  get state() {
    return this.#state;
  }

  /** Connects, and stays connected. Resolves at the first CONNECTED; rejects if it ends before. */
  connect() {
    if (this.#attempt) return this.#opening.promise;
    this.#opening = deferred();
    this.#failures = 0;
    this.#tokens.isRefused = false;
    this.#listen();
    this.#begin();
    return this.#opening.promise;
  }

  /**
   * Subscribes now, or as soon as connected, and again after each reconnect. Resolves when the
   * subscription is live; rejects if the server refuses it for good, or with a TypeError if the options cannot be.
   */
  subscribe(destination, onMessage, options) {
    try {
      return this.#subscriptions.add(destination, onMessage, options, this.#options.headers);
    } catch (mistake) {
      return Promise.reject(mistake);
    }
  }

  /**
   * Resolves at the RECEIPT: the broker has the message. Rejects with a Problem, whose `fate` is `refused`,
   * `unknown` (the message may have arrived) or `unsent`. `body` is a text; or a Uint8Array, but not over SockJS (`text-only`).
   */
  publish(destination, body = '', headers = {}) {
    if (!this.#connection?.isOpen) return Promise.reject(new Problem('not-connected', 'there is no connection', { fate: 'unsent' }));
    const isText = typeof body === 'string';
    if (!isText && this.#connection.isTextOnly) {
      const words = 'SockJS carries text only: publish the bytes as a text (base64, say), or connect by a WebSocket';
      return Promise.reject(new Problem('text-only', words, { next: 'stop', fate: 'unsent' }));
    }
    const content = isText ? { body } : { binaryBody: body };
    // The receipt comes first: the server can name it, although a header behind it is too long.
    const write = (stomp, receipt) => stomp.publish({ destination, headers: Object.assign({ receipt }, headers, { receipt }), ...content });
    return this.#connection.request(write, this.#options.publishTimeout);
  }

  /**
   * The user's availability on this device, which each later login says, too. Resolves when the server has confirmed
   * it; at once where no connection is wished for. Rejects if the server refuses it, or if the connection, or the
   * client, ends before: the next login says it all the same.
   */
  setStatus(status) {
    if (!STATUSES.includes(status)) return Promise.reject(new TypeError(`a status is one of ${STATUSES.join(', ')}, not ${status}`));
    this.#status = status;
    if (!this.#attempt) return Promise.resolve();
    if (!this.#connection?.isOpen) return (this.#unsaid ??= deferred()).promise;
    const saying = this.#say(status);
    saying.catch(() => {}); // not every application waits for it: `onProblem` and `onState` tell, too
    return saying;
  }

  async #say(status) {
    try {
      await this.publish('/presence', '', { status });
      this.#takenStatus = status;
    } catch (problem) {
      if (problem.fate === 'refused' && this.#status === status) this.#status = this.#takenStatus;
      throw problem;
    }
  }

  /** Hears of users who come, go or change their status: `key` is `user.NAME`, `group.NAME` or a pattern. */
  watchPresence(key, onEvent, { exchange = 'presence', ...options } = {}) {
    const newest = new Map(); // user -> `at`: an event may come twice, or too late
    const take = ({ body }) => {
      const event = JSON.parse(body);
      if (event.at <= newest.get(event.user)) return;
      newest.delete(event.user);
      newest.set(event.user, event.at);
      if (newest.size > KEPT_USERS) newest.delete(newest.keys().next().value);
      onEvent(event);
    };
    return this.subscribe(`/exchange/${exchange}/${key}`, take, options);
  }

  /** The device has woken, or its network has changed: looks at once whether the connection lives. */
  wake() {
    for (const part of [this.#comeback, this.#tokens, this.#subscriptions]) part.check();
    this.#connection?.probe(this.#options.probeTimeout);
    const isShort = this.#state !== 'waiting' || !this.#attempt || this.#attempt.isAdvised || this.#comeback.left < LIVELY;
    if (!isShort && globalThis.navigator?.onLine !== false) this.#comeback.set(Math.random() * LIVELY, () => this.#begin());
  }

  /** An orderly end: what was published before is confirmed. Forgets all subscriptions. */
  close() {
    const problem = new Problem('closed', 'the client was closed', { next: 'stop' });
    this.#subscriptions.forget(problem, true);
    if (this.#closing && !this.#attempt) return this.#closing; // nothing was begun since
    this.#opening?.reject(problem);
    const connection = this.#stop(problem);
    const ends = [this.#closing, connection?.close(this.#options.closeTimeout)];
    const closing = Promise.all(ends).then(() => {}).finally(() => {
      if (this.#closing !== closing) return;
      this.#closing = undefined;
      if (!this.#attempt) this.#become('closed', {});
    });
    this.#closing = closing;
    return closing;
  }

  async #begin() {
    const attempt = this.#attempt = { isRenewal: this.#tokens.isRefused };
    const counts = () => attempt === this.#attempt;
    this.#become('connecting', {});
    if (!counts()) return; // the application has closed it
    try {
      const token = await this.#tokens.get('connect');
      if (counts()) this.#connection = this.#open(token, counts);
    } catch (cause) { // no token; or no WebSocket, or none for this address
      const problem = cause instanceof Problem ? cause : new Problem('no-socket', String(cause), { next: 'stop', cause });
      if (counts()) this.#lose(problem);
    }
  }

  #open(token, counts) {
    const { Stomp, url, webSocketFactory, headers, stomp, connectTimeout, onProblem } = this.#options;
    const connectHeaders = { ...headers };
    if (token !== undefined) connectHeaders.passcode = token;
    const status = this.#status;
    if (status) connectHeaders['presence-status'] = status;
    const open = (protocols) => (webSocketFactory ? webSocketFactory(protocols) : new WebSocket(url, protocols));
    return new Connection(Stomp, { ...stomp, connectHeaders }, open, connectTimeout, {
      open: (frame) => counts() && this.#connected(frame, status),
      message: (id, message) => counts() && this.#subscriptions.take(id, message),
      error: (problem, id) => {
        if (!counts()) return;
        this.#call(onProblem, problem);
        this.#subscriptions.refuse(id, problem);
      },
      over: (problem) => counts() && this.#lose(problem),
    });
  }

  #connected({ headers }, saidStatus) {
    this.#attempt.isRenewal = false;
    this.#tokens.keep(this.#connection, headers);
    this.#takenStatus = saidStatus;
    const { resolve, reject } = this.#unsaid ?? deferred();
    this.#unsaid = undefined;
    if (this.#status === saidStatus) resolve();
    else this.#say(this.#status).then(resolve, reject); // it was set meanwhile
    this.#opening.resolve();
    this.#become('connected', { headers });
    if (this.#connection) this.#subscriptions.connect(this.#connection);
  }

  /** The connection is over, or none could be made: comes back as advised, or ends. */
  #lose(problem) {
    if (Date.now() - this.#connection?.levelAt >= STEADY) this.#failures = 0;
    const { code, next, seconds } = problem;
    const canRenew = this.#tokens.canRenew && !this.#attempt.isRenewal; // a lost network refuses no token
    this.#connection = undefined;
    this.#tokens.stop();
    this.#subscriptions.disconnect();
    if (next === 'stop' || (next === 'renew' && !canRenew)) {
      this.#stop(problem);
      this.#subscriptions.forget(problem, false); // others may be asked for again after the next connect()
      this.#opening.reject(problem);
      this.#become('ended', { problem });
      return;
    }
    const delay = code === 'token-expired' && this.#failures === 0 ? 0 : pause(seconds, this.#failures);
    this.#failures += 1;
    if (next === 'renew' || this.#attempt.isRenewal) this.#tokens.isRefused = true; // nobody has judged the new one yet
    this.#attempt.isAdvised = seconds > 0;
    this.#comeback.set(delay, () => this.#begin());
    this.#become('waiting', { delay, problem });
  }

  /** The application's user has logged out. */
  #leave(problem) {
    this.#connection.close(this.#options.closeTimeout);
    this.#lose(problem);
  }

  #stop(problem) {
    const connection = this.#connection;
    this.#unsaid?.reject(problem);
    this.#unsaid = undefined;
    this.#connection = undefined;
    this.#attempt = undefined;
    this.#tokens.stop();
    this.#subscriptions.disconnect();
    this.#comeback.clear();
    this.#ears?.();
    return connection;
  }

  #become(state, detail) {
    this.#state = state;
    this.#call(this.#options.onState, state, detail);
  }

  /** A fault of the application's is reported as one, and keeps no frame from being read. */
  #call(callback, ...values) {
    try {
      callback?.(...values);
    } catch (error) {
      setTimeout(() => { throw error; });
    }
  }

  /** What browsers know of sleep and networks. */
  #listen() {
    const { document } = globalThis;
    if (!globalThis.addEventListener) return;
    const wake = ({ type }) => (type === 'visibilitychange' && document.visibilityState === 'hidden') || this.wake();
    const places = [[globalThis, 'online'], [globalThis, 'offline'], [globalThis, 'pageshow'], [document, 'visibilitychange'], [document, 'resume']];
    for (const [target, name] of places) target?.addEventListener(name, wake);
    this.#ears = () => { for (const [target, name] of places) target?.removeEventListener(name, wake); };
  }
}
