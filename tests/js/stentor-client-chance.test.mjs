// clients/js against a server that answers late, refuses and ends at random, used by an application that changes its
// mind at random, in time that the test lets pass. Each seed is one life; CHANCE_SEEDS=2000 runs as many.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Client } from '@stomp/stompjs';

import { StentorClient } from '../../clients/js/client.js';
import { dice } from './dice.mjs';
import { FakeSocket, settled } from './fake-socket.mjs';

const SEEDS = Number(process.env.CHANCE_SEEDS ?? 100);
const STEPS = 120;

/** One connection of the server: frames are answered in order, when it is told to. */
class Server {
  open = new Map(); // id -> destination
  lost = new Set(); // ids that it has ended by itself, which the client may not have heard
  waiting = []; // frames
  isLeft = false;

  constructor(socket, faults) {
    Object.assign(this, { socket, faults });
  }

  /** What has come. Names are taken and freed as frames come, as by the gateway. */
  read() {
    const frames = this.socket.sent.splice(0);
    for (const frame of frames) {
      const { command, headers } = frame;
      if (command === 'beat') continue;
      if (this.isLeft) this.faults.push(`${command} after DISCONNECT`);
      if (command === 'CONNECT') this.hasAsked = true;
      if (command === 'DISCONNECT') this.isLeft = true;
      if (command === 'SUBSCRIBE') {
        if (this.open.has(headers.id)) this.faults.push(`SUBSCRIBE twice: ${headers.id}`);
        this.open.set(headers.id, headers.destination);
      }
      if (command === 'UNSUBSCRIBE' && !this.open.delete(headers.id) && !this.lost.delete(headers.id)) this.faults.push(`UNSUBSCRIBE of nothing: ${headers.id}`);
      if (headers.receipt) this.waiting.push(frame);
    }
  }

  get isLive() {
    return this.socket.readyState === 1 && this.isOpen;
  }

  accept() {
    if (this.socket.readyState !== 0) return;
    this.socket.open();
    this.read();
    this.isOpen = true;
    this.socket.answer('CONNECTED', { version: '1.2', 'heart-beat': '0,0', 'expires-in': '20' });
  }

  /** Answers the oldest frame. */
  answer(refuses) {
    const frame = this.waiting.shift();
    if (!frame || !this.isLive) return;
    const { command, headers } = frame;
    if (refuses && command === 'SUBSCRIBE' && this.open.get(headers.id) === headers.destination) {
      this.open.delete(headers.id);
      this.socket.deny(...(refuses === 1 ? ['permission-denied', 'no'] : ['permission-unavailable', '5s']), { frame });
    } else if (refuses && command === 'SEND') this.socket.deny('permission-denied', 'no', { frame });
    else this.socket.confirm(frame, headers.destination === '/auth/renew' ? { 'expires-in': '20' } : {});
  }

  /** The ERROR of one subscription, which is over; or a message for it. */
  tell(roll) {
    const ids = [...this.open.keys()];
    if (ids.length === 0 || !this.isLive || this.isLeft) return;
    const id = ids[roll(ids.length)];
    // Only what is answered ends so: the ERROR of a SUBSCRIBE has its receipt.
    const isAnswered = !this.waiting.some(({ headers }) => headers.id === id);
    if (roll(3) === 0 && isAnswered) {
      this.open.delete(id);
      this.lost.add(id);
      this.socket.deny(...(roll(2) ? ['permission-withdrawn', 'no'] : ['feed-interrupted', '1s']), { subscription: id });
    } else {
      const delta = roll(3) === 0 && { 'x-delta': 'fossil 2 1' }; // which nobody can read
      this.socket.answer('MESSAGE', { subscription: id, 'message-id': '1', destination: this.open.get(id), ...delta }, this.open.get(id));
    }
  }
}

async function live(context, seed) {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_000_000 });
  const roll = dice(seed);
  const { random } = Math;
  Math.random = () => roll(1_000) / 1_000;
  const story = [];
  const faults = [];
  const servers = [];
  const promises = new Set();
  const subscriptions = new Set();
  let count = 0; // of tokens
  let isCalm = false;
  const client = new StentorClient({
    Stomp: Client,
    subscribesPerSecond: 2,
    webSocketFactory: () => {
      const socket = new FakeSocket();
      servers.push(new Server(socket, faults));
      return socket;
    },
    getToken: async () => {
      count += 1;
      if (roll(3) === 0) await new Promise((go) => { setTimeout(go, roll(15_000)); });
      if (roll(10) === 0) throw new Error('away');
      return 'token';
    },
    onState: (state) => {
      story.push(state);
      meddle();
    },
  });
  const watch = (name, promise) => {
    const entry = { name };
    promises.add(entry);
    const settle = () => promises.delete(entry);
    promise.then(settle, settle);
    return promise;
  };
  const newest = () => servers.at(-1);
  /** The application does something in a callback. */
  const meddle = () => {
    if (isCalm || roll(8)) return;
    const name = ['close', 'connect', 'wake', 'subscribe', 'unsubscribe', 'publish'][roll(6)];
    story.push(`(${name})`);
    actions[name]();
  };
  const actions = {
    connect: () => { watch('connect', client.connect()).catch(() => {}); },
    close: () => { watch('close', client.close()); for (const one of subscriptions) one.isGone = true; subscriptions.clear(); },
    wake: () => client.wake(),
    subscribe() {
      const destination = `/exchange/feed/${story.length}-${roll(1_000)}`;
      const end = new AbortController();
      const one = { end, destination };
      const id = roll(3) === 0 ? `room-${roll(2)}` : undefined;
      if (id && [...subscriptions].some((other) => other.id === id)) return;
      one.id = id;
      const onMessage = ({ body }) => {
        if (body !== destination) faults.push(`a message of ${body} at ${destination}`);
        if (one.isGone) faults.push(`a message of ${destination}, which is gone`);
        meddle();
      };
      const leave = () => { one.isGone = true; subscriptions.delete(one); };
      const onProblem = ({ next, code }) => {
        if (next !== 'retry') leave();
        else if (roll(4) === 0) { leave(); end.abort(); }
        story.push(`${code} ${next}`);
        meddle();
      };
      subscriptions.add(one);
      client.subscribe(destination, onMessage, { headers: id ? { id } : {}, delta: roll(3) === 0, signal: end.signal, onProblem, onLive: meddle })
        .then((made) => { one.made = made; }, leave);
    },
    unsubscribe() {
      const all = [...subscriptions];
      if (all.length === 0) return;
      const one = all[roll(all.length)];
      one.isGone = true;
      subscriptions.delete(one);
      if (one.made && roll(2)) watch('unsubscribe', one.made.unsubscribe(roll(2) ? { durable: 'true' } : undefined)).catch(() => {});
      else one.end.abort();
    },
    publish: () => { watch('publish', client.publish('/exchange/feed/x', 'x')).catch(() => {}); },
    accept: () => newest()?.accept(),
    answer: () => { for (const server of servers) server.answer(roll(6) === 0 ? 1 + roll(2) : 0); },
    answers: () => { for (const server of servers) while (server.waiting.length > 0 && server.isLive) server.answer(0); },
    tell: () => newest()?.tell(roll),
    lose: () => { if (roll(2)) newest()?.socket.end(); },
    error: () => { if (roll(3) === 0 && newest()?.isLive) newest().socket.refuse(...[['shutting-down', '1s'], ['kicked', 'no'], ['token-expired', 'renew']][roll(3)]); },
    freeze: () => { const server = newest(); if (server && roll(4) === 0) server.socket.dead = true; },
    moment: () => context.mock.timers.tick(roll(1_500)),
    moments: () => { for (let left = roll(30); left > 0; left -= 1) context.mock.timers.tick(500); },
  };
  const names = Object.keys(actions);
  const check = (name) => {
    for (const server of servers) server.read();
    const alive = servers.filter(({ socket, isLeft }) => socket.readyState < 2 && !isLeft && !socket.dead);
    if (alive.length > 1) faults.push(`${alive.length} connections`);
    assert.deepEqual(faults, [], `seed ${seed}, after ${name}: ${story.slice(-40).join(', ')}`);
  };
  for (let step = 0; step < STEPS; step += 1) {
    const name = roll(3) ? ['connect', 'accept', 'answer', 'answers', 'subscribe', 'moment'][roll(6)] : names[roll(names.length)];
    story.push(name);
    actions[name]();
    if (roll(3)) await settled();
    check(name);
  }
  // A server that behaves: all that is wished for becomes live.
  const calm = async (until, what) => {
    for (let turn = 0; turn < 600 && !until(); turn += 1) {
      actions.accept();
      actions.answers();
      await settled();
      context.mock.timers.tick(500);
      await settled();
      check(what);
    }
    assert.ok(until(), `seed ${seed}, ${what}: ${story.slice(-40).join(', ')}`);
  };
  isCalm = true;
  client.connect().catch(() => {});
  await calm(() => client.state === 'connected' && [...subscriptions].every(({ destination }) => [...newest().open.values()].includes(destination)), 'it comes back');
  await calm(() => newest().open.size === subscriptions.size, 'nothing else is open');
  actions.close();
  await calm(() => client.state === 'closed' && promises.size === 0, 'all ends');
  assert.ok(servers.every(({ socket }) => socket.readyState === 3 || socket.dead), `seed ${seed}`);
  const { length } = servers;
  const tokens = count;
  for (let turn = 0; turn < 30; turn += 1) context.mock.timers.tick(60_000);
  await settled();
  assert.deepEqual([servers.length, count], [length, tokens], `seed ${seed}: something comes after the end`);
  Math.random = random;
  context.mock.timers.reset();
}

test('whatever happens, it keeps the protocol, comes back, and ends', async (context) => {
  const first = Number(process.env.CHANCE_FIRST ?? 0);
  for (let seed = first; seed < first + SEEDS; seed += 1) await live(context, seed);
});
