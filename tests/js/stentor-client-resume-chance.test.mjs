// The option `resume` of clients/js against a journal that forgets, connections that are lost between any two frames,
// and reloads, at random: no gap that is not told, and no message twice unless behind one. A gap that is told covers what
// was published before it. Each seed is one life; CHANCE_SEEDS=2000 runs as many.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Client } from '@stomp/stompjs';

import { StentorClient } from '../../clients/js/client.js';
import { dice } from './dice.mjs';
import { FakeSocket, settled } from './fake-socket.mjs';

const SEEDS = Number(process.env.CHANCE_SEEDS ?? 50);
const STEPS = 250;

/** A gap that the application was told: it loads its state, with all that was published before. */
const gapAt = (upTo) => ({ upTo });
const isGap = (one) => typeof one === 'object';

/** The journal of one destination, and the connection of the moment. A message's number is its place; its cursor too. */
class Server {
  times = []; // when each message was published
  first = 0; // the first one that is kept
  frames = []; // on their way to the client
  id; // the subscription, where one is open
  base; // the first message that the client must have

  constructor(roll, onUnnoticed) {
    Object.assign(this, { roll, onUnnoticed });
  }

  begin(socket) {
    Object.assign(this, { socket, frames: [], id: undefined });
    return socket;
  }

  publish() {
    this.times.push(Date.now());
    if (this.id) this.frames.push({ message: this.times.length - 1, id: this.id });
  }

  read() {
    for (const { command, headers } of this.socket?.sent.splice(0) ?? []) {
      if (command === 'DISCONNECT') this.socket.confirm({ headers });
      if (command === 'SUBSCRIBE') this.subscribe(headers);
    }
  }

  subscribe(headers) {
    const { times, roll } = this;
    let start = times.length;
    let told = {};
    if (headers['resume-after'] && this.isReplaced && roll(3) === 0) {
      this.frames.push({ refused: headers, stays: roll(2) === 0 });
      return;
    }
    if (headers['resume-after']) {
      start = Number(headers['resume-after'].split('-')[1]) + 1;
      told = { resume: 'exact' };
      if (start < this.first) {
        told = { resume: 'gap', reason: 'expired' };
        start = headers['resume-gap'] === 'earliest' ? this.first : times.length;
      }
    } else if (headers.since) {
      const from = Date.now() - Number.parseInt(headers.since, 10) * 1_000;
      const found = times.findIndex((at) => at >= from);
      start = found < 0 ? times.length : found;
      if (start < this.first) this.onUnnoticed(); // by time, a client cannot know
      start = Math.max(start, this.first);
      told = { resume: 'exact' };
    }
    const missed = times.slice(start).map((_, index) => ({ message: start + index, id: headers.id }));
    let place = missed.length;
    if (told.resume) {
      told.missed = String(missed.length);
      if (missed.length === 0 && times.length > 0 && roll(2)) told.cursor = `c-${times.length - 1}`;
      if (missed.length > 0 && roll(3) === 0) { // the RECEIPT comes between them
        told.missed = 'more';
        place = roll(missed.length);
      }
    }
    missed.splice(place, 0, { receipt: headers, told, next: times.length });
    this.frames.push(...missed);
    this.id = headers.id;
  }

  /** One frame arrives. */
  deliver() {
    const { socket } = this;
    const frame = socket?.readyState === 1 && this.frames.shift();
    if (!frame) return;
    if (frame.refused) {
      if (frame.stays) socket.deny('foreign-cursor', 'no', { frame: { headers: frame.refused } });
      else socket.refuse('foreign-cursor', 'no', { frame: { headers: frame.refused } });
      return;
    }
    this.base ??= frame.message ?? frame.next;
    if (frame.receipt) socket.confirm({ headers: frame.receipt }, frame.told);
    else socket.answer('MESSAGE', { subscription: frame.id, 'message-id': 'm', cursor: `c-${frame.message}` }, String(frame.message));
  }
}

/** What the application got: numbers, and gaps where it was told of one, and loaded its state anew. */
function judge(got, base, end, words) {
  const all = got.filter((one) => isGap(one) || one >= base);
  let expected = base;
  let last = -1; // the place of the last message
  for (const [place, one] of all.entries()) {
    if (isGap(one)) continue;
    const before = all.indexOf(one);
    const isTwice = before < place && !all.slice(before, place).some(isGap);
    assert.ok(!isTwice, `${one} came twice: ${words}`);
    const isTold = one <= expected || all.slice(last + 1).some(({ upTo }) => upTo >= one);
    assert.ok(isTold, `a gap before ${one} that was not told: ${words}`);
    last = place;
    expected = one + 1;
  }
  assert.equal(expected, end, `the last ones did not come: ${words}`);
}

async function live(context, seed) {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_000_000 });
  const roll = dice(seed);
  const { random } = Math;
  Math.random = () => roll(1_000) / 1_000;
  const got = [];
  const story = [];
  const kept = new Map();
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, text) => { kept.set(key, text); } };
  const gap = ['next', 'earliest'][roll(2)];
  const forgets = roll(2) === 0;
  const server = new Server(roll, () => got.push(gapAt(Infinity)));
  server.isReplaced = roll(2) === 0;
  let client;
  const open = () => {
    client = new StentorClient({ Stomp: Client, headers: { login: 'alice' }, webSocketFactory: () => server.begin(new FakeSocket()) });
    client.connect().catch(() => {});
    client.subscribe('/exchange/feed/user_alice', ({ body }) => got.push(Number(body)), {
      resume: { gap, storage },
      onGap: () => got.push(gapAt(server.times.length)),
      onLive: () => story.push(`live after ${got.length}`),
    }).catch(() => {});
  };
  const actions = {
    publish: () => server.publish(),
    deliver: () => { for (let left = 1 + roll(3); left > 0; left -= 1) server.deliver(); },
    accept: () => { if (server.socket?.readyState === 0) server.socket.accept(); },
    lose: () => { if (roll(3) === 0) server.socket?.end(); },
    time: () => context.mock.timers.tick(roll(3_000)),
    forget: () => { if (forgets && roll(4) === 0) server.first = Math.max(server.first, server.times.length - roll(4)); },
    reload() {
      if (roll(10) > 0) return;
      client.close();
      server.socket?.end();
      open();
    },
  };
  const names = Object.keys(actions);
  open();
  for (let step = 0; step < STEPS; step += 1) {
    const name = names[roll(names.length)];
    story.push(name);
    actions[name]();
    await settled();
    server.read();
    await settled();
  }
  for (let turn = 0; turn < 200; turn += 1) { // nothing is lost any more
    actions.accept();
    await settled();
    server.isReplaced = false;
    server.read();
    actions.deliver();
    await settled();
    context.mock.timers.tick(500);
  }
  server.publish();
  actions.deliver();
  judge(got, server.base, server.times.length, `seed ${seed}, ${gap}, got ${got.map((one) => (isGap(one) ? `gap up to ${one.upTo}` : one))}: ${story}`);
  Math.random = random;
  context.mock.timers.reset();
}

test('no gap is left untold, and no message comes twice', async (context) => {
  const first = Number(process.env.CHANCE_FIRST ?? 0);
  for (let seed = first; seed < first + SEEDS; seed += 1) await live(context, seed);
});
