// The option `delta` of clients/js: deltas as the gateway writes them (deltas.json, which a test of its own holds to
// that), deltas of any kind, and wrong ones.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

import { Client } from '@stomp/stompjs';

import { StentorClient } from '../../clients/js/client.js';
import { apply, Bases } from '../../clients/js/delta.js';
import { FakeSocket, pass, settled } from './fake-socket.mjs';

globalThis.WebSocket = FakeSocket;

const VECTORS = JSON.parse(await readFile(new URL('deltas.json', import.meta.url), 'utf8'))
  .map(({ name, ...all }) => ({ name, ...Object.fromEntries(Object.entries(all).map(([of, hex]) => [of, Uint8Array.from(Buffer.from(hex, 'hex'))])) }));
const [PRICES] = VECTORS;
const PRICE = '/exchange/prices/eur';
const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~';
const bytes = (text) => new TextEncoder().encode(text);
const text = (made) => new TextDecoder().decode(made);

/** Numbers that look random, the same in each run. */
function dice(seed) {
  let state = seed;
  return (most) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * most);
  };
}

function base64(number) {
  return number < 64 ? DIGITS[number] : base64(Math.floor(number / 64)) + DIGITS[number % 64];
}

/** Fossil's sum, in another way than the client's. */
function sumOf(body) {
  const padded = Buffer.concat([body, Buffer.alloc((4 - (body.length % 4)) % 4)]);
  let sum = 0n;
  for (let at = 0; at < padded.length; at += 4) sum += BigInt(padded.readUInt32BE(at));
  return Number(sum % 2n ** 32n);
}

/** A delta that copies and takes at random; and the body that it makes. */
function randomDelta(base, roll) {
  const parts = [];
  let body = Buffer.alloc(0);
  for (let left = roll(12); left > 0; left -= 1) {
    if (roll(2) === 0 && base.length > 0) {
      const start = roll(base.length);
      const count = roll(base.length - start + 1);
      parts.push(bytes(`${base64(count)}@${base64(start)},`));
      body = Buffer.concat([body, base.subarray(start, start + count)]);
    } else {
      const taken = Uint8Array.from({ length: roll(90) }, () => roll(256));
      parts.push(bytes(`${base64(taken.length)}:`), taken);
      body = Buffer.concat([body, taken]);
    }
  }
  return { body, delta: Uint8Array.from(Buffer.concat([bytes(`${base64(body.length)}\n`), ...parts, bytes(`${base64(sumOf(body))};`)])) };
}

test('the gateway\'s deltas give the bodies back', () => {
  assert.ok(VECTORS.length >= 8);
  for (const { name, base, body, delta } of VECTORS) assert.deepEqual(apply(base, delta), body, name);
});

test('so does any delta in the format', () => {
  const roll = dice(7);
  for (let round = 0; round < 2_000; round += 1) {
    const base = Uint8Array.from({ length: roll(400) }, () => roll(256));
    const { body, delta } = randomDelta(base, roll);
    assert.deepEqual(Buffer.from(apply(base, delta)), body);
  }
});

test('what is no delta is refused', () => {
  const base = bytes('sixteen letters and some more');
  const sum = base64(sumOf(bytes('sixteen letters!')));
  assert.equal(text(apply(base, bytes(`G\nF@0,1:!${sum};`))), 'sixteen letters!');
  for (const wrong of [
    '', 'G', '\n', 'G\n', 'G\nF', 'G\nF@', 'G\nF@0', 'G\nF@0,', 'G\nF@0,1', 'G\nF@0,1:', 'G\nF@0,1:!', `G\nF@0,1:!${sum}`, 'G\nF@0,1:!;', 'G\nF@0,1:!0;',
    `G\nF@0,2:!${sum};`, `H\nF@0,1:!${sum};`, `F\nF@0,1:!${sum};`, `G\nF@F,1:!${sum};`, `G\nz@0,1:!${sum};`, `G\nF@zzzzz,1:!${sum};`, `G\nF@~~~~~~~~~~~~,1:!${sum};`,
    `G\nF?0,1:!${sum};`, `G\n@0,1:!${sum};`, `G\nF@0;1:!${sum};`, `G\nF@0,1:!${sum};0`, `~~~~~\nF@0,1:!${sum};`, `${'~'.repeat(500)}\n0;`, 'H00\n0;', '\u00ff\n0;',
  ]) assert.throws(() => apply(base, bytes(wrong)), { code: 'bad-delta' }, JSON.stringify(wrong));
});

test('deltas that are damaged, and any bytes, are refused, or make a body of the size that they tell', () => {
  const roll = dice(11);
  let refused = 0;
  const tries = 20_000;
  for (let round = 0; round < tries; round += 1) {
    const { base, delta } = VECTORS[roll(VECTORS.length)];
    const damaged = roll(10) === 0 ? Uint8Array.from({ length: roll(60) }, () => roll(256)) : delta.slice(0, roll(3) === 0 ? roll(delta.length + 1) : delta.length);
    for (let left = 1 + roll(3); left > 0 && damaged.length > 0; left -= 1) damaged[roll(damaged.length)] = roll(2) ? roll(256) : DIGITS.charCodeAt(roll(64));
    try {
      const size = [...text(damaged).split('\n')[0]].reduce((sum, digit) => sum * 64 + DIGITS.indexOf(digit), 0);
      assert.equal(apply(base, damaged).length, size);
    } catch (problem) {
      assert.equal(problem.code, 'bad-delta', problem.stack);
      refused += 1;
    }
  }
  assert.ok(refused > tries * 0.97, `${refused} of ${tries}`);
});

function message(destination, told, body) {
  return { headers: { destination, ...(told && { 'x-delta': told }) }, binaryBody: body, get body() { return text(body); }, ack: () => 'acked' };
}

test('each destination has a base of its own: its last message', () => {
  const bases = new Bases();
  const first = message(PRICE, 'whole 1', PRICES.base);
  assert.equal(bases.take(first), first);
  bases.take(message('/exchange/prices/yen', 'whole 2', bytes('another')));
  const next = bases.take(message(PRICE, 'fossil 3 1', PRICES.delta));
  assert.equal(next.body, text(PRICES.body));
  assert.deepEqual(next.binaryBody, PRICES.body);
  assert.equal(next.headers['content-length'], String(PRICES.body.length));
  assert.equal(next.headers.destination, PRICE);
  assert.equal(next.ack(), 'acked');
  for (const told of ['fossil 4 1', 'fossil 4', 'vcdiff 4 3', ' ']) {
    assert.throws(() => bases.take(message(PRICE, told, PRICES.delta)), { code: 'no-delta-base' }, told);
  }
  const plain = message(PRICE, undefined, bytes('of a server without deltas'));
  assert.equal(bases.take(plain), plain);
});

test('it keeps as many bases as the server refers to', () => {
  const bases = new Bases();
  for (let n = 0; n < 300; n += 1) bases.take(message(`/topic/${n}`, `whole ${n}`, PRICES.base));
  const delta = (n) => message(`/topic/${n}`, `fossil 999 ${n}`, PRICES.delta);
  assert.throws(() => bases.take(delta(43)), { code: 'no-delta-base' });
  assert.deepEqual(bases.take(delta(44)).binaryBody, PRICES.body);
  bases.take(message('/topic/299', 'whole 1000', new Uint8Array(70_000)));
  assert.throws(() => bases.take(message('/topic/299', 'fossil 1001 1000', PRICES.delta)), { code: 'no-delta-base' });
});

test('a subscription whose delta cannot be read begins anew, without deltas', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_000_000 });
  FakeSocket.all = [];
  const client = new StentorClient({ Stomp: Client, url: 'ws://test/ws', headers: { login: 'alice' } });
  client.connect();
  await settled();
  const socket = FakeSocket.last;
  socket.accept();
  await settled();
  const told = [];
  client.subscribe(PRICE, ({ body }) => told.push(body), {
    delta: true, onProblem: ({ code }) => told.push(code), onLive: (again) => told.push(again ? 'again' : 'live'),
  });
  await settled();
  const [asked] = socket.frames('SUBSCRIBE');
  assert.equal(asked.headers.delta, 'fossil');
  socket.confirm(asked);
  await settled();
  const { id: subscription } = asked.headers;
  const answer = (headers, body) => socket.answer('MESSAGE', { subscription, 'message-id': 'm', destination: PRICE, ...headers }, body);
  answer({ 'x-delta': 'whole 1' }, PRICES.base);
  answer({ 'x-delta': 'fossil 2 1' }, PRICES.delta);
  answer({ 'x-delta': 'fossil 9 8' }, PRICES.delta);
  answer({ 'x-delta': 'fossil 10 9' }, PRICES.delta);
  await settled();
  assert.deepEqual(told, ['live', text(PRICES.base), text(PRICES.body), 'no-delta-base']);
  const [left] = socket.frames('UNSUBSCRIBE');
  socket.confirm(left);
  await settled();
  await pass(context, 100);
  const again = socket.frames('SUBSCRIBE')[1];
  assert.equal(again.headers.delta, undefined);
  assert.equal(again.headers.id, subscription);
  socket.confirm(again);
  await settled();
  answer({}, 'whole');
  assert.deepEqual(told.slice(-2), ['again', 'whole']);
});

test('a delta that cannot be read before the RECEIPT is one UNSUBSCRIBE, also if the subscription is given up', async (context) => {
  for (const isGivenUp of [false, true]) {
    await context.test(isGivenUp ? 'given up' : 'goes on', async (context) => {
      context.mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_000_000 });
      FakeSocket.all = [];
      const client = new StentorClient({ Stomp: Client, url: 'ws://test/ws', headers: { login: 'alice' } });
      client.connect();
      await settled();
      const socket = FakeSocket.last;
      socket.accept();
      await settled();
      const told = [];
      const wish = new AbortController();
      const onProblem = ({ code }) => {
        told.push(code);
        if (isGivenUp) wish.abort();
      };
      client.subscribe(PRICE, ({ body }) => told.push(body), { delta: true, onProblem, signal: wish.signal }).catch(() => {});
      await settled();
      const [asked] = socket.frames('SUBSCRIBE');
      const answer = () => socket.answer('MESSAGE', { subscription: asked.headers.id, 'message-id': 'm', destination: PRICE, 'x-delta': 'fossil 2 1' }, PRICES.delta);
      answer();
      socket.confirm(asked);
      answer();
      await settled();
      answer();
      assert.deepEqual(told, ['no-delta-base']);
      assert.equal(socket.frames('UNSUBSCRIBE').length, 1);
      socket.confirm(socket.frames('UNSUBSCRIBE')[0]);
      await settled();
      assert.equal(socket.frames('SUBSCRIBE').length, isGivenUp ? 1 : 2);
    });
  }
});

test('each connection begins with other bases', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_000_000 });
  FakeSocket.all = [];
  const client = new StentorClient({ Stomp: Client, url: 'ws://test/ws', headers: { login: 'alice' } });
  client.connect();
  const told = [];
  client.subscribe(PRICE, ({ body }) => told.push(body), { delta: true, onProblem: ({ code }) => told.push(code) });
  for (const number of [1, 2]) {
    await settled();
    if (number === 2) await pass(context, 40_000);
    const socket = FakeSocket.last;
    socket.accept();
    await settled();
    const [asked] = socket.frames('SUBSCRIBE');
    assert.equal(asked.headers.delta, 'fossil');
    socket.confirm(asked);
    await settled();
    const answer = (delta, body) => socket.answer('MESSAGE', { subscription: asked.headers.id, 'message-id': 'm', destination: PRICE, 'x-delta': delta }, body);
    if (number === 1) answer('whole 1', PRICES.base);
    answer('fossil 2 1', PRICES.delta);
    if (number === 1) socket.end();
  }
  assert.deepEqual(told, [text(PRICES.base), text(PRICES.body), 'no-delta-base']);
});
