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
  #call;
  #perSecond;

  /** `call(callback, ...values)` calls the application. */
  constructor(perSecond, call) {
    this.#perSecond = perSecond;
    this.#call = call;
  }

  /** Resolves when it is live; rejects if it is refused for good. Throws a TypeError if the options cannot be. `login` is the user, if it is known. */
  add(destination, onMessage, { headers = {}, resume, delta = false, onLive, onResumed, onGap, onProblem, signal } = {}, login) {
    const id = headers.id ?? this.#freeId();
    if (this.#all.has(id)) throw new TypeError(`there is a subscription with the id ${id}`);
    const ready = deferred();
    const owner = login && `stentor-cursor ${login} ${destination}`;
    const progress = resume ? new Progress(resume, headers, owner, (problem) => this.#call(onProblem, problem)) : undefined;
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
    for (const { alarm } of this.#all.values()) alarm.clear();
  }

  /** The device has woken. */
  check() {
    for (const { alarm } of this.#all.values()) alarm.check();
  }

  /** Forgets those that were never live; or all. */
  forget(problem, all) {
    for (const subscription of [...this.#all.values()]) if (all || !subscription.wasLive) this.#drop(subscription, problem);
  }

  /** The server refuses this one: it is dropped, or tried again when the advice says so. */
  refuse(id, problem) {
    const subscription = this.#all.get(id);
    if (!subscription || subscription.asked !== this.#connection) return; // it may be the next one of that id
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
    } else {
      this.#drop(subscription, problem);
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
      if (this.#isHere(next)) answers.push(this.#ask(connection, next));
    }
    connection.isAsking = false;
    await Promise.all(answers);
    connection.levelAt ??= Date.now();
  }

  #unasked() {
    for (const subscription of this.#all.values()) {
      if (subscription.asked !== this.#connection && !this.#leaving.has(subscription.id)) return subscription;
    }
    return undefined;
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
      };
      const failed = (problem) => {
        settle(false);
        const isOver = problem.code === 'connection-lost' || problem.code === 'unsent'; // the next connection sees it
        if (!isOver && this.#isHere(subscription)) this.refuse(id, problem);
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

  async #remove(subscription, headers) {
    const { id, asked, answer } = subscription;
    if (!this.#isHere(subscription)) return;
    this.#drop(subscription, new Problem('unsubscribed', 'the subscription was given up', { next: 'stop' }));
    if (asked !== this.#connection || !subscription.isThere) return; // the server knows nothing of it
    if (!subscription.isAnswered) {
      const leaving = this.#leaving.add(id);
      await answer; // if it is refused, there is nothing to leave
      leaving.delete(id);
    }
    if (asked === this.#connection && subscription.isThere) await this.#leave(asked, id, headers);
    else this.#askAll();
  }

  /** UNSUBSCRIBE. Until it is answered, messages of the id are still of this subscription. */
  async #leave(connection, id, headers) {
    const leaving = this.#leaving.add(id);
    await connection.request((stomp, receipt) => stomp.unsubscribe(id, { ...headers, receipt })).catch(() => {}); // an end of the connection is one, too
    leaving.delete(id);
    this.#askAll();
  }

  #drop(subscription, problem) {
    subscription.alarm.clear();
    subscription.release();
    this.#all.delete(subscription.id);
    subscription.ready.reject(problem);
  }
}

/** A promise that somebody else settles. Not every application waits for it: its callbacks tell, too. */
export function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  made.promise.catch(() => {});
  return made;
}
