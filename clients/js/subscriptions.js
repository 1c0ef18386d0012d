// Subscriptions that outlive connections: each connection sees every SUBSCRIBE once, not faster than
// the gateway takes them, and one that is refused alone is dropped or tried again alone.

import { Problem } from './advice.js';
import { Bases } from './delta.js';
import { Alarm, Pace, pause } from './pace.js';
import { Progress } from './progress.js';

export class Subscriptions {
  #all = new Map(); // id -> subscription
  #lastId = 0;
  #connection;
  #pace;
  #leaving; // ids of subscriptions that the server is told to end, and has not ended yet
  #partings = new Map(); // id -> what is given up, and not without headers in UNSUBSCRIBE; see `#part`
  #call;
  #perSecond;

  /** `call(callback, ...values)` calls the application. */
  constructor(perSecond, call) {
    this.#perSecond = perSecond;
    this.#call = call;
  }

  /** Resolves when it is live; rejects if it is refused for good. Throws a TypeError if the options cannot be. `login` is the user and `host` the virtual host, if they are known. */
  add(destination, onMessage, { headers = {}, resume, delta = false, onLive, onResumed, onGap, onProblem, signal } = {}, { login, host } = {}) {
    const id = headers.id ?? this.#freeId();
    if (this.#all.has(id)) throw new TypeError(`there is a subscription with the id ${id}`);
    const ready = deferred();
    const owner = login && `${login} ${destination}`;
    const owners = owner && (host ? [`${host} ${owner}`, owner] : [owner]); // the second as older versions named it
    const progress = resume ? new Progress(resume, headers, owners, (problem) => this.#call(onProblem, problem)) : undefined;
    if (progress?.key && [...this.#all.values()].some((other) => other.progress?.key === progress.key)) { // each would move the other's place
      throw new TypeError(`another subscription keeps its cursor as "${progress.key}": give one of them a resume.key of its own`);
    }
    if (headers.id === undefined && isNamedById(destination, headers)) throw new TypeError('a durable subscription needs a header id, another one on each device');
    const callbacks = { onMessage, onLive, onResumed, onGap, onProblem };
    const subscription = { id, destination, headers, delta, ...callbacks, progress, ready, failures: 0, alarm: new Alarm() };
    this.#all.set(id, subscription);
    const leave = () => this.#remove(subscription);
    signal?.addEventListener('abort', leave);
    subscription.release = () => signal?.removeEventListener('abort', leave);
    if (signal?.aborted) leave();
    this.#askAll();
    return ready.promise;
  }

  take(id, message) {
    const subscription = this.#all.get(id);
    if (!subscription?.isThere) return;
    let whole = message;
    try {
      whole = subscription.bases?.take(message) ?? message;
    } catch (problem) {
      this.#beginWhole(subscription, problem);
      return;
    }
    this.#give(subscription, subscription.progress?.sift(whole) ?? [whole]);
  }

  #give(subscription, messages) {
    for (const message of messages) {
      if (!this.#isHere(subscription)) return;
      this.#call(subscription.onMessage, message);
      subscription.progress?.take(message.headers); // after it: what a reload interrupts comes again
    }
  }

  /** A delta cannot be read, nor what comes after it: begins anew, without deltas. */
  #beginWhole(subscription, problem) {
    const { id, asked, onProblem } = subscription;
    Object.assign(subscription, { delta: false, asked: undefined, isThere: false });
    this.#leave(asked, id);
    this.#call(onProblem, problem);
  }

  /** A connection is open. */
  connect(connection) {
    this.#connection = connection;
    this.#pace = new Pace(this.#perSecond);
    this.#leaving = new Set();
    this.#askAll();
  }

  /** It is over. */
  disconnect() {
    this.#connection = undefined;
    for (const { alarm } of this.#known()) alarm.clear();
  }

  /** The device has woken. */
  check() {
    for (const { alarm } of this.#known()) alarm.check();
  }

  /** Forgets those that were never live, and those that are given up; or all. */
  forget(problem, all) {
    for (const subscription of [...this.#all.values()]) if (all || !subscription.wasLive) this.#drop(subscription, problem);
    for (const subscription of this.#partings.values()) {
      const { code, message, detail } = problem;
      const unsent = new Problem(code, message, { detail, next: 'stop', fate: subscription.fate, cause: problem });
      if (subscription.isLeaving) this.#partings.delete(subscription.id); // the answer that is awaited tells
      else this.#endParting(subscription, unsent);
    }
  }

  /** The server refuses this one: it is dropped, or tried again when the advice says so. */
  refuse(id, problem) {
    const subscription = this.#all.get(id);
    if (subscription && subscription.asked === this.#connection) this.#refused(subscription, problem); // or it is the next one of that id
  }

  #refused(subscription, problem) {
    subscription.isThere = false;
    if (subscription.progress?.refuse(problem)) { // it begins anew, here or on the next connection
      subscription.asked = undefined;
      this.#askAll();
      return;
    }
    const isGap = problem.code === 'resume-gap'; // with gap: 'fail', which would fail again
    if (problem.next === 'retry' && !isGap) {
      subscription.alarm.set(pause(problem.seconds, subscription.failures), () => {
        subscription.asked = undefined;
        this.#askAll();
      });
      subscription.failures += 1;
    } else if (this.#isHere(subscription)) {
      this.#drop(subscription, problem);
    } else {
      this.#endParting(subscription, problem);
    }
    this.#call(subscription.onProblem, problem);
  }

  #freeId() {
    do this.#lastId += 1; while (this.#all.has(`sub-${this.#lastId}`));
    return `sub-${this.#lastId}`;
  }

  async #askAll() {
    const connection = this.#connection;
    if (!connection || connection.isAsking) return;
    connection.isAsking = true;
    const answers = [];
    for (let next = this.#unasked(); next; next = this.#unasked()) {
      const delay = this.#pace.take();
      if (delay > 0) await new Promise((go) => { setTimeout(go, delay); });
      if (connection !== this.#connection) return;
      if (this.#isHere(next) || this.#isParting(next)) answers.push(this.#ask(connection, next));
    }
    connection.isAsking = false;
    connection.answers = Promise.all([connection.answers, ...answers]).then(() => {}); // also those to what was asked before; their values would nest ever deeper
    await connection.answers;
    connection.levelAt ??= Date.now();
  }

  #unasked() {
    for (const subscription of this.#known()) {
      const { id, asked } = subscription;
      const isFree = !this.#leaving.has(id) && (!this.#partings.has(id) || this.#isParting(subscription));
      if (isFree && asked !== this.#connection) return subscription;
    }
    return undefined;
  }

  /** All that the server is asked for; what is given up comes first. */
  * #known() {
    yield* this.#partings.values();
    yield* this.#all.values();
  }

  /** SUBSCRIBE; resolves when it is answered. */
  #ask(connection, subscription) {
    const { id, destination, headers, delta, progress } = subscription;
    Object.assign(subscription, { asked: connection, bases: delta ? new Bases() : undefined, isThere: true, isAnswered: false });
    const wish = { ...(delta && { delta: 'fossil' }), ...headers, ...progress?.ask() };
    subscription.answer = new Promise((answered) => {
      const settle = (isThere) => {
        if (subscription.asked === connection) Object.assign(subscription, { isThere, isAnswered: true });
        answered();
      };
      const done = (receipt) => {
        settle(true);
        if (this.#isHere(subscription)) this.#begin(subscription, receipt);
        else if (this.#isParting(subscription)) this.#part(subscription);
      };
      const failed = (problem) => {
        settle(false);
        const isOver = problem.code === 'connection-lost' || problem.code === 'unsent'; // the next connection sees it
        if (!isOver && (this.#isHere(subscription) || this.#isParting(subscription))) this.#refused(subscription, problem);
      };
      connection.subscribe(id, destination, wish, done, failed);
    });
    return subscription.answer;
  }

  /** It is live, which is told before its next message comes. */
  #begin(subscription, { headers }) {
    const { id, destination, ready, progress, onLive, onResumed, onGap, wasLive = false } = subscription;
    Object.assign(subscription, { failures: 0, wasLive: true });
    ready.resolve({ id, destination, unsubscribe: (more) => this.#remove(subscription, more) });
    const { missed, gap, held = [] } = progress?.answer(headers) ?? {};
    if (gap !== undefined) this.#call(onGap, gap);
    else if (missed !== undefined) this.#call(onResumed, { missed });
    this.#give(subscription, held);
    if (this.#isHere(subscription)) this.#call(onLive, wasLive);
  }

  /** It was not given up, nor dropped. */
  #isHere(subscription) {
    return this.#all.get(subscription.id) === subscription;
  }

  /** It was given up, and the server has not done yet what that is to do there. */
  #isParting(subscription) {
    return this.#partings.get(subscription.id) === subscription;
  }

  /** `more` headers have UNSUBSCRIBE do more than to end it: `durable` deletes its queue. */
  #remove(subscription, more) {
    const { id, asked } = subscription;
    const parting = deferred();
    if (!this.#isHere(subscription)) {
      if (more && !subscription.more) parting.reject(new Problem('unsubscribed', 'the subscription is gone already', { next: 'stop', fate: 'unsent' }));
      else parting.resolve(subscription.parting?.promise);
      return parting.promise;
    }
    subscription.parting = parting;
    if (!more) {
      this.#drop(subscription, new Problem('unsubscribed', 'the subscription was given up', { next: 'stop' }));
      this.#leaveIfThere(subscription).then(parting.resolve);
      return parting.promise;
    }
    subscription.release();
    this.#all.delete(id);
    this.#partings.set(id, subscription);
    Object.assign(subscription, { more, fate: 'unsent', delta: false, progress: undefined, onProblem: undefined });
    if (asked === this.#connection && subscription.isThere && subscription.isAnswered) this.#part(subscription);
    else this.#askAll();
    return parting.promise;
  }

  async #leaveIfThere(subscription) {
    const { id, asked, answer } = subscription;
    if (asked !== this.#connection || !subscription.isThere) return; // the server knows nothing of it
    if (!subscription.isAnswered) {
      const leaving = this.#leaving.add(id);
      await answer; // if it is refused, there is nothing to leave
      leaving.delete(id);
    }
    if (asked === this.#connection && subscription.isThere) await this.#leave(asked, id);
    else this.#askAll();
  }

  /**
   * UNSUBSCRIBE with `more`. Without an answer it may not be done, and only who is subscribed can ask for it: so the
   * next connection subscribes once more, and leaves again.
   */
  async #part(subscription) {
    const { id, asked, more } = subscription;
    Object.assign(subscription, { isThere: false, isLeaving: true });
    const problem = await this.#leave(asked, id, more);
    subscription.isLeaving = false;
    const isOver = problem?.code === 'unsent' || (problem?.next === 'retry' && asked !== this.#connection);
    if (problem?.fate === 'unknown') subscription.fate = 'unknown';
    if (!problem || !this.#isParting(subscription)) this.#endParting(subscription, problem);
    else if (!isOver) this.#refused(subscription, problem);
  }

  #endParting(subscription, problem) {
    const { id, alarm, parting } = subscription;
    alarm.clear();
    if (this.#isParting(subscription)) this.#partings.delete(id);
    if (problem) parting.reject(problem);
    else parting.resolve();
    this.#askAll();
  }

  /** UNSUBSCRIBE; the problem, if there is one. Until it is answered, messages of the id are still of this subscription. */
  async #leave(connection, id, headers) {
    const leaving = this.#leaving.add(id);
    const write = (stomp, receipt) => stomp.unsubscribe(id, { ...headers, receipt });
    const problem = await connection.request(write).then(() => undefined, (cause) => cause); // an end of the connection is one, too
    leaving.delete(id);
    this.#askAll();
    return problem;
  }

  #drop(subscription, problem) {
    subscription.alarm.clear();
    subscription.release();
    this.#all.delete(subscription.id);
    subscription.ready.reject(problem);
  }
}

/** The queue is named by user, destination and `id`, which all devices would count from `sub-1`. */
function isNamedById(destination, headers) {
  const isDurable = ['durable', 'persistent'].some((name) => /^\s*[Tt]rue\s*$/.test(headers[name])); // as the server reads them
  return isDurable && headers['x-queue-name'] === undefined && /^\/(exchange|topic)\//.test(destination);
}

/** A promise that somebody else settles. Not every application waits for it: its callbacks tell, too. */
export function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  made.promise.catch(() => {});
  return made;
}
