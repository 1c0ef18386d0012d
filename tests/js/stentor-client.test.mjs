// clients/js against a WebSocket that the test plays, in time that the test lets pass.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import { Client, FrameImpl, Parser } from '@stomp/stompjs';
import SockJS from 'sockjs-client';
import { WebSocketServer } from 'ws';

import { Problem, problemOfClose, problemOfError, readAdvice } from '../../clients/js/advice.js';
import { StentorClient } from '../../clients/js/client.js';
import { Alarm, Pace, pause, readExpiry, renewAfter } from '../../clients/js/pace.js';
import { Subscriptions } from '../../clients/js/subscriptions.js';
import { FakeSocket, encodeFrame, pass, settled } from './fake-socket.mjs';

globalThis.WebSocket = FakeSocket;

const FEED = '/exchange/feed/user_alice';

/** A client and the frames that it sends; `random` is all chance there is. */
function made(context, { random = 0.5, ...options } = {}) {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'] });
  const { random: chance } = Math; // a mock would keep all of its calls
  Math.random = () => random;
  context.after(() => { Math.random = chance; });
  FakeSocket.all = [];
  const states = [];
  const problems = [];
  const client = new StentorClient({
    Stomp: Client,
    url: 'ws://test/ws',
    headers: { login: 'alice', passcode: 'secret' },
    onState: (state, detail) => states.push([state, detail]),
    onProblem: (problem) => problems.push(problem),
    ...options,
  });
  return { client, states, problems, names: () => states.map(([name]) => name) };
}

async function connected(context, options) {
  const all = made(context, options);
  all.client.connect();
  await settled();
  FakeSocket.last.accept(options?.connected);
  await settled();
  return { ...all, socket: FakeSocket.last };
}

/** Has the engine free all that nothing refers to. */
function collector() {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc');
}

/** Subscribes, and the server confirms. */
async function subscribed(client, destination, onMessage = () => {}, options = undefined) {
  const subscribing = client.subscribe(destination, onMessage, options);
  await settled();
  FakeSocket.last.confirm();
  return subscribing;
}

// ---- advice ----

test('every advice of the table of errors is understood', async () => {
  const page = await readFile(new URL('../../docs/errors.md', import.meta.url), 'utf8');
  const rows = [...page.matchAll(/^\| `([a-z-]+)` \| `[^`]+` \| (\d+) \| `([^`]+)` \|/gm)];
  assert.ok(rows.length > 50, `${rows.length} rows`);
  for (const [, code, close, reconnect] of rows) {
    const advice = readAdvice(reconnect);
    assert.ok(advice, `${code}: ${reconnect}`);
    // Without the ERROR, the code of the close leads to the same, or asks for credentials once.
    const { next } = problemOfClose({ code: Number(close) });
    assert.equal(next === 'retry', advice.next === 'retry', `${code}: ${close}`);
  }
});

test('advice that is none', () => {
  for (const text of [undefined, '', 'soon', '5', 's', '-5s', '5s ', '1e9s', '5.5s']) assert.equal(readAdvice(text), undefined, text);
  assert.deepEqual(readAdvice('99999999999s'), { next: 'retry', seconds: 86_400 });
});

test('after these errors nobody knows whether the message was published', () => {
  const fate = (code) => problemOfError({ headers: { 'error-code': code, 'receipt-id': 'x' }, body: '' }, 'retry').fate;
  const uncertain = ['broker-unavailable', 'queue-unavailable', 'sequences-unavailable', 'sequence-lost', 'sequence-taken', 'not-published', 'not-found', 'broker-refused', 'precondition-failed'];
  assert.deepEqual(uncertain.map(fate), uncertain.map(() => 'unknown'));
  assert.deepEqual(['permission-denied', 'invalid-header', 'sequence-gap', 'sequence-not-open'].map(fate), Array(4).fill('refused'));
});

// ---- paces ----

test('a pause is what is advised, and a random part at least as wide', () => {
  assert.equal(pause(0, 0, 0), 0);
  assert.equal(pause(0, 0, 1), 1_000);
  assert.equal(pause(0, 3, 1), 8_000);
  assert.equal(pause(0, 2_000, 1), 30_000);
  assert.equal(pause(5, 0, 0), 5_000);
  assert.equal(pause(5, 0, 1), 10_000);
  assert.equal(pause(1, 4, 1), 17_000);
  const drawn = Array.from({ length: 1_000 }, () => pause(30, 0));
  const quarters = [0, 1, 2, 3].map((quarter) => drawn.filter((time) => Math.floor((time - 30_000) / 7_500) === quarter).length);
  assert.ok(quarters.every((count) => count > 150), `a crowd is spread evenly: ${quarters}`);
});

test('a token is renewed at some 80 %, and seconds before its end', () => {
  assert.equal(renewAfter(3_600, 0), 2_700_000);
  assert.equal(renewAfter(3_600, 1), 3_060_000);
  assert.equal(renewAfter(60, 1), 50_000);
  assert.equal(renewAfter(20, 1), 10_000);
  assert.equal(renewAfter(10, 1), 5_000);
  assert.equal(renewAfter(0, 1), 1_000);
  assert.deepEqual(['0', '3600', undefined, '', '-1', '1.5', 'never'].map(readExpiry), [0, 3_600, undefined, undefined, undefined, undefined, undefined]);
});

test('SUBSCRIBE frames stay below what the gateway takes', (context) => {
  context.mock.timers.enable({ apis: ['Date'] });
  const pace = new Pace(20);
  let [time, tokens, at] = [0, 200, 0]; // the gateway's bucket: ten seconds' worth
  for (let frame = 0; frame < 1_000; frame += 1) {
    const delay = pace.take();
    time += delay;
    context.mock.timers.tick(Math.ceil(delay));
    tokens = Math.min(200, tokens + ((time - at) / 1_000) * 20) - 1;
    at = time;
    assert.ok(tokens >= 0, `frame ${frame}`);
  }
  assert.ok(time > 40_000 && time < 42_000, `${time} ms`);
});

test('an alarm goes by the clock, and waits for longer than a timer can', (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  const rung = [];
  const alarm = new Alarm();
  alarm.set(60_000, () => rung.push('slept'));
  context.mock.timers.setTime(61_000); // timers stood still
  assert.deepEqual(rung, []);
  alarm.check();
  alarm.check();
  assert.deepEqual(rung, ['slept']);
  const days = 40 * 86_400_000;
  alarm.set(days, () => rung.push('long'));
  for (let hour = 0; hour < 40 * 24 - 1; hour += 1) context.mock.timers.tick(3_600_000);
  assert.deepEqual(rung, ['slept']);
  context.mock.timers.tick(3_600_000);
  assert.deepEqual(rung, ['slept', 'long']);
  alarm.set(1_000, () => rung.push('cleared'));
  alarm.clear();
  context.mock.timers.tick(2_000);
  assert.equal(rung.length, 2);
});

test('an alarm rings although the clock was set back', (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 86_400_000 });
  const { now } = Date;
  const rung = [];
  const alarm = new Alarm();
  for (const delay of [1_000, 5 * 3_600_000 + 1_000]) {
    Date.now = now;
    alarm.set(delay, () => rung.push(delay));
    Date.now = () => now() - 8 * 3_600_000;
    alarm.check();
    for (let hour = 1; hour * 3_600_000 < delay; hour += 1) context.mock.timers.tick(3_600_000);
    context.mock.timers.tick(999);
    assert.ok(!rung.includes(delay));
    context.mock.timers.tick(1);
    assert.ok(rung.includes(delay), `${delay}`);
  }
});

// ---- subscriptions ----

test('a subscription is promised at its RECEIPT, and delivers', async (context) => {
  const { client, socket, names } = await connected(context);
  assert.deepEqual(names(), ['connecting', 'connected']);
  assert.equal(socket.sent[0].headers.passcode, 'secret');
  const bodies = [];
  let isLive = false;
  const subscribing = client.subscribe(FEED, ({ body }) => bodies.push(body)).then((made) => { isLive = true; return made; });
  await settled();
  assert.equal(isLive, false);
  socket.confirm();
  const { id, destination, unsubscribe } = await subscribing;
  assert.equal(destination, FEED);
  socket.answer('MESSAGE', { subscription: id, 'message-id': '1', destination }, 'Zoë');
  assert.deepEqual(bodies, ['Zoë']);
  const leaving = unsubscribe();
  assert.deepEqual([socket.sent.at(-1).command, socket.sent.at(-1).headers.id], ['UNSUBSCRIBE', id]);
  socket.confirm();
  await leaving;
  await unsubscribe(); // a second time is nothing
  assert.equal(socket.frames('UNSUBSCRIBE').length, 1);
});

test('subscriptions survive: the same id and headers, and each is told', async (context) => {
  const { client, socket, states } = await connected(context);
  const lives = [];
  const options = { headers: { id: 'mine', selector: "a = 'b:c'" }, onLive: (again) => lives.push(again) };
  await subscribed(client, FEED, () => {}, options);
  await subscribed(client, '/exchange/feed/news');
  socket.end();
  assert.equal(states.at(-1)[1].problem.code, 'connection-lost');
  await pass(context, 1_000);
  const second = FakeSocket.last;
  second.accept();
  await settled();
  const [again, other] = second.frames('SUBSCRIBE');
  const { receipt, ...headers } = again.headers;
  assert.deepEqual(headers, { id: 'mine', selector: "a = 'b:c'", destination: FEED });
  assert.equal(other.headers.destination, '/exchange/feed/news');
  assert.deepEqual(lives, [false]);
  second.confirm(again);
  await settled();
  assert.deepEqual(lives, [false, true]);
});

test('what is subscribed before the connection waits for it', async (context) => {
  const { client } = made(context);
  const subscribing = client.subscribe(FEED, () => {});
  const controller = new AbortController();
  const givenUp = client.subscribe('/exchange/feed/x', () => {}, { signal: controller.signal });
  client.connect();
  await settled();
  FakeSocket.last.end();
  controller.abort();
  await assert.rejects(givenUp, { code: 'unsubscribed' });
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  assert.equal(FakeSocket.last.frames('SUBSCRIBE').length, 1);
  FakeSocket.last.confirm();
  assert.equal((await subscribing).id, 'sub-1');
  await assert.rejects(client.subscribe('/exchange/feed/x', () => {}, { signal: controller.signal }), { code: 'unsubscribed' });
  await assert.rejects(client.subscribe(FEED, () => {}, { headers: { id: 'sub-1' } }), TypeError);
});

test('an id that the application took is not given again', async (context) => {
  const { client } = await connected(context);
  const ids = [];
  for (const headers of [{ id: 'sub-2' }, {}, {}]) ids.push((await subscribed(client, FEED, () => {}, { headers })).id);
  assert.deepEqual(ids, ['sub-2', 'sub-1', 'sub-3']);
});

test('a subscription that is refused alone leaves the session alone', async (context) => {
  const { client, socket, problems, states } = await connected(context);
  const told = [];
  const refused = client.subscribe('/exchange/feed/user_bob', () => {}, { onProblem: (problem) => told.push(problem) });
  await settled();
  socket.deny('permission-denied', 'no', { frame: socket.sent.at(-1) });
  await assert.rejects(refused, { code: 'permission-denied', message: 'words of permission-denied', detail: 'more words', next: 'stop', fate: 'refused' });
  assert.deepEqual([told.length, problems.length], [1, 1]);
  // The connection is lost later, for another reason: the advice was not about that.
  await subscribed(client, FEED);
  socket.end();
  assert.equal(states.at(-1)[1].problem.code, 'connection-lost');
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  assert.deepEqual(FakeSocket.last.frames('SUBSCRIBE').map(({ headers }) => headers.destination), [FEED]);
});

test('a subscription that nobody could judge is tried again when the advice says', async (context) => {
  const { client, socket } = await connected(context);
  const told = [];
  const subscribing = client.subscribe(FEED, () => {}, { onProblem: ({ code, seconds }) => told.push([code, seconds]) });
  await settled();
  socket.deny('permission-unavailable', '5s', { frame: socket.sent.at(-1) });
  await pass(context, 4_900);
  assert.equal(socket.frames('SUBSCRIBE').length, 1, 'not before');
  await pass(context, 2_700);
  const [first, second] = socket.frames('SUBSCRIBE');
  assert.equal(second.headers.id, first.headers.id);
  assert.deepEqual(told, [['permission-unavailable', 5]]);
  socket.confirm(second);
  await subscribing;
});

test('what waits alone is asked for once, if the connection is lost meanwhile', async (context) => {
  const { client, socket } = await connected(context);
  client.subscribe(FEED, () => {});
  await settled();
  socket.deny('permission-unavailable', '30s', { frame: socket.sent.at(-1) });
  await subscribed(client, '/exchange/feed/news');
  socket.end();
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  for (const frame of FakeSocket.last.frames('SUBSCRIBE')) FakeSocket.last.confirm(frame);
  await pass(context, 60_000);
  assert.equal(FakeSocket.last.frames('SUBSCRIBE').length, 2);
});

test('a live subscription that an ERROR names is tried again alone', async (context) => {
  const { client, socket, names } = await connected(context);
  const told = [];
  const { id } = await subscribed(client, FEED, () => {}, { onProblem: ({ code }) => told.push(code) });
  socket.deny('feed-interrupted', '1s', { subscription: id });
  assert.deepEqual(told, ['feed-interrupted']);
  await pass(context, 2_000);
  assert.equal(socket.frames('SUBSCRIBE').length, 2);
  assert.equal(names().at(-1), 'connected');
  socket.confirm();
  socket.deny('permission-denied', 'no', { subscription: id });
  await pass(context, 60_000);
  assert.equal(socket.frames('SUBSCRIBE').length, 2);
  assert.deepEqual(told, ['feed-interrupted', 'permission-denied']);
});

test('a server that closes behind a refused subscription is asked for the others', async (context) => {
  const { client, socket, names } = await connected(context);
  await subscribed(client, FEED);
  const refused = client.subscribe('/exchange/feed/user_bob', () => {});
  await settled();
  socket.refuse('permission-denied', 'no', { frame: socket.sent.at(-1) });
  await assert.rejects(refused, { code: 'permission-denied' });
  assert.equal(names().at(-1), 'waiting');
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  assert.deepEqual(FakeSocket.last.frames('SUBSCRIBE').map(({ headers }) => headers.destination), [FEED]);
});

test('many subscriptions come back no faster than the server takes them', async (context) => {
  const { client, socket } = await connected(context, { subscribesPerSecond: 20 });
  for (let key = 0; key < 400; key += 1) client.subscribe(`/exchange/feed/${key}`, () => {});
  await settled();
  assert.equal(socket.frames('SUBSCRIBE').length, 180);
  await pass(context, 5_000);
  const count = socket.frames('SUBSCRIBE').length;
  assert.ok(count >= 275 && count <= 281, `${count}`);
  socket.end(); // and from the beginning
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  await pass(context, 11_500);
  const keys = FakeSocket.last.frames('SUBSCRIBE').map(({ headers }) => headers.id);
  assert.equal(new Set(keys).size, 400);
  assert.equal(keys.length, 400);
});

test('a subscription that is given up before its turn was never the server’s', async (context) => {
  const { client, socket } = await connected(context, { subscribesPerSecond: 1 });
  const givenUp = new AbortController();
  for (let key = 1; key <= 12; key += 1) client.subscribe(`/exchange/feed/${key}`, () => {}, { signal: key === 10 ? givenUp.signal : undefined });
  await settled();
  assert.equal(socket.frames('SUBSCRIBE').length, 9);
  givenUp.abort(); // it would be the next one
  await pass(context, 10_000);
  assert.deepEqual(socket.frames('UNSUBSCRIBE'), []);
  assert.deepEqual(socket.frames('SUBSCRIBE').map(({ headers }) => headers.destination.split('/').at(-1)).slice(-3), ['9', '11', '12']);
});

test('a subscription that is given up while it waits for another try is none of the server’s', async (context) => {
  const { client, socket } = await connected(context);
  const givenUp = new AbortController();
  client.subscribe('/exchange/chat/room.7', () => {}, { signal: givenUp.signal });
  await settled();
  socket.deny('room-full', '30s', { frame: socket.sent.at(-1) });
  await settled();
  givenUp.abort();
  const { id, unsubscribe } = await subscribed(client, FEED);
  socket.deny('feed-interrupted', '1s', { subscription: id });
  unsubscribe();
  await pass(context, 90_000, 1_000);
  assert.deepEqual(socket.frames('UNSUBSCRIBE'), []);
  assert.equal(socket.frames('SUBSCRIBE').length, 2);
});

test('a subscription that was to be tried again is asked for once by the next connection', async (context) => {
  const { client, socket } = await connected(context);
  client.subscribe(FEED, () => {});
  await settled();
  const chances = [0.9, 0]; // the connection comes back before the subscription's own pause is over
  Math.random = () => chances.shift() ?? 0;
  socket.refuse('permission-unavailable', '5s', { frame: socket.sent.at(-1), close: 1013 }); // both in one turn, as SockJS does
  await pass(context, 6_000);
  FakeSocket.last.accept();
  await settled();
  FakeSocket.last.confirm();
  await pass(context, 60_000, 1_000);
  assert.equal(FakeSocket.all.length, 2);
  assert.equal(FakeSocket.last.frames('SUBSCRIBE').length, 1);
});

test('a subscription that is given up before its answer is left when it was taken, and not when it was refused', async (context) => {
  const { client, socket } = await connected(context);
  const givenUp = new AbortController();
  for (const key of ['taken', 'refused', 'closed']) client.subscribe(`/exchange/feed/${key}`, () => assert.fail('given up'), { signal: givenUp.signal });
  await settled();
  const [taken, refused] = socket.frames('SUBSCRIBE');
  givenUp.abort();
  socket.confirm(taken);
  socket.answer('MESSAGE', { subscription: taken.headers.id }, 'x');
  socket.deny('permission-denied', 'no', { frame: refused });
  await settled();
  assert.deepEqual(socket.frames('UNSUBSCRIBE').map(({ headers }) => headers.id), [taken.headers.id]);
  client.close();
  socket.confirm(socket.frames('SUBSCRIBE')[2]);
  await settled();
  assert.equal(socket.sent.at(-1).command, 'DISCONNECT');
});

test('an id that was left is given to the next subscription when the server has ended the last one', async (context) => {
  const { client, socket } = await connected(context);
  const seen = [];
  const enter = (room) => subscribed(client, `/exchange/chat/${room}`, ({ body }) => seen.push([room, body]), { headers: { id: 'room' } });
  const { unsubscribe } = await enter('one');
  const leaving = unsubscribe();
  const entering = client.subscribe('/exchange/chat/two', ({ body }) => seen.push(['two', body]), { headers: { id: 'room' } });
  await settled();
  socket.answer('MESSAGE', { subscription: 'room' }, 'of room one, on its way');
  socket.deny('permission-withdrawn', 'no', { subscription: 'room' }); // of room one, too
  assert.equal(socket.frames('SUBSCRIBE').length, 1);
  socket.confirm(socket.frames('UNSUBSCRIBE')[0]);
  await leaving;
  await settled();
  socket.confirm(socket.frames('SUBSCRIBE')[1]);
  await entering;
  socket.answer('MESSAGE', { subscription: 'room' }, 'of room two');
  assert.deepEqual(seen, [['two', 'of room two']]);
});

/** The next connection. */
async function comesBack(context) {
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  return FakeSocket.last;
}

/** A subscription with a queue that outlives it, and the frames about it as the server sees them. */
async function durable(context, onMessage) {
  const all = await connected(context);
  const headers = { id: 'phone', durable: 'true' };
  const { unsubscribe } = await subscribed(all.client, '/topic/news', onMessage, { headers });
  const outcome = [];
  const leave = () => { unsubscribe({ durable: 'true' }).then(() => outcome.push('left'), ({ code, fate }) => outcome.push(`${code} ${fate}`)); };
  const frames = () => FakeSocket.last.sent.slice(1).map(({ command, headers: { id, durable } }) => `${command} ${id} ${durable}`);
  return { ...all, unsubscribe, leave, outcome, frames };
}
const BACK = 'SUBSCRIBE phone true';
const LEFT = 'UNSUBSCRIBE phone true';

test('a durable subscription has an id of its own: its queue is named by it, and all devices count from sub-1', async (context) => {
  const { client } = made(context);
  const headers = { durable: 'true', 'auto-delete': 'false' };
  const nameless = [headers, { durable: true }, { durable: 'True' }, { persistent: 'true' }, { durable: 'false', persistent: true }]; // each goes as a text, and the server takes both names
  for (const destination of ['/exchange/feed/k', '/topic/news']) {
    for (const unnamed of nameless) {
      await assert.rejects(Promise.race([client.subscribe(destination, () => {}, { headers: unnamed }), settled()]), { name: 'TypeError', message: /id/ });
    }
  }
  const named = [['/topic/news', { ...headers, id: 'phone' }], ['/topic/old', { ...headers, 'x-queue-name': 'mine' }], ['/queue/work', headers]];
  for (const [destination, more] of named) await Promise.race([client.subscribe(destination, () => {}, { headers: more }), settled()]);
});

test('a connection keeps nothing of the subscriptions that came and went', async () => {
  const connection = {
    subscribe: (id, destination, headers, done) => done({ headers: {} }),
    request: () => Promise.resolve(),
  };
  const subscriptions = new Subscriptions(1e6, () => {});
  subscriptions.connect(connection);
  for (let round = 0; round < 1_000; round += 1) {
    const { unsubscribe } = await subscriptions.add('/topic/news', () => {});
    await unsubscribe();
  }
  await settled();
  assert.equal(await connection.answers, undefined);
});

test('a durable subscription that is given up while there is no connection is left at the next one', async (context) => {
  const { client, socket, leave, unsubscribe, outcome, frames } = await durable(context, () => assert.fail('given up'));
  socket.end();
  leave();
  await settled();
  assert.deepEqual(outcome, [], 'the queue stays, and fills');
  await comesBack(context);
  assert.deepEqual(frames(), [BACK], 'only who is subscribed can leave');
  FakeSocket.last.answer('MESSAGE', { subscription: 'phone' }, 'x');
  FakeSocket.last.confirm();
  await settled();
  assert.deepEqual(frames(), [BACK, LEFT]);
  assert.deepEqual(outcome, []);
  FakeSocket.last.confirm();
  await settled();
  assert.deepEqual(outcome, ['left']);
  await unsubscribe({ durable: 'true' });
  FakeSocket.last.end();
  await comesBack(context);
  assert.deepEqual([frames(), client.state], [[], 'connected']);
});

test('a durable subscription is left again where the answer is lost, or the server cannot do it now', async (context) => {
  const { socket, leave, outcome, frames } = await durable(context);
  leave();
  socket.end();
  await comesBack(context);
  FakeSocket.last.confirm();
  await settled();
  assert.deepEqual(frames(), [BACK, LEFT]);
  FakeSocket.last.deny('permission-unavailable', '5s', { frame: FakeSocket.last.sent.at(-1) });
  await pass(context, 8_000);
  assert.deepEqual(frames(), [BACK, LEFT, BACK]);
  FakeSocket.last.deny('permission-unavailable', '5s', { frame: FakeSocket.last.sent.at(-1) });
  await pass(context, 9_000);
  FakeSocket.last.confirm();
  await settled();
  FakeSocket.last.refuse('broker-unavailable', '1s', { frame: FakeSocket.last.sent.at(-1), close: 1013 });
  await pass(context, 5_000);
  FakeSocket.last.accept();
  await settled();
  assert.deepEqual(outcome, []);
  FakeSocket.last.confirm();
  await settled();
  FakeSocket.last.confirm();
  await settled();
  assert.deepEqual(outcome, ['left']);
  await pass(context, 60_000, 1_000);
  assert.deepEqual(frames(), [BACK, LEFT]);
});

test('where the queue of a durable subscription stays for good, its application is told', async (context) => {
  const ends = {
    'the server refuses to leave': [({ socket, leave }) => { leave(); socket.deny('permission-denied', 'no', { frame: socket.sent.at(-1) }); }, 'permission-denied refused'],
    'the server refuses the way back': [async ({ socket, leave }, context) => {
      socket.end();
      leave();
      await comesBack(context);
      FakeSocket.last.deny('permission-denied', 'no', { frame: FakeSocket.last.sent.at(-1) });
    }, 'permission-denied refused'],
    'the client is closed': [({ client, socket, leave }) => { socket.end(); leave(); client.close(); }, 'closed unsent'],
    'the client ends': [({ socket, leave }) => { leave(); socket.refuse('kicked', 'no'); }, 'connection-lost unknown'],
    'the client ends later': [async ({ socket, leave }, context) => {
      leave();
      socket.end();
      (await comesBack(context)).refuse('kicked', 'no');
    }, 'kicked unknown'],
    'it was dropped before': [({ socket, leave }) => { socket.deny('permission-withdrawn', 'no', { subscription: 'phone' }); leave(); }, 'unsubscribed unsent'],
  };
  for (const [name, [end, expected]] of Object.entries(ends)) {
    await context.test(name, async (context) => {
      const all = await durable(context);
      await end(all, context);
      await settled();
      assert.deepEqual(all.outcome, [expected]);
    });
  }
});

test('close waits for a durable subscription that is being left', async (context) => {
  const { client, socket, leave, outcome } = await durable(context);
  leave();
  const closing = client.close();
  const [unsubscribe, disconnect] = socket.sent.slice(-2);
  socket.confirm(unsubscribe);
  socket.confirm(disconnect);
  await closing;
  assert.deepEqual(outcome, ['left']);
});

test('a durable subscription is left before the next one of its id, whose queue is the same', async (context) => {
  const { client, socket, leave, outcome, frames } = await durable(context);
  socket.end();
  leave();
  const seen = [];
  client.subscribe('/topic/news', ({ body }) => seen.push(body), { headers: { id: 'phone', durable: 'true' } });
  await comesBack(context);
  FakeSocket.last.confirm();
  await settled();
  FakeSocket.last.answer('MESSAGE', { subscription: 'phone' }, 'of before');
  assert.deepEqual(frames(), [BACK, LEFT]);
  FakeSocket.last.confirm();
  await settled();
  assert.deepEqual([frames(), outcome], [[BACK, LEFT, BACK], ['left']]);
  FakeSocket.last.confirm();
  FakeSocket.last.answer('MESSAGE', { subscription: 'phone' }, 'new');
  assert.deepEqual(seen, ['new']);
});

test('a subscription that is given up in onResumed is not live', async (context) => {
  const { client, socket } = await connected(context);
  const givenUp = new AbortController();
  const lives = [];
  const options = { resume: true, signal: givenUp.signal, onResumed: () => givenUp.abort(), onLive: (again) => lives.push(again) };
  await subscribed(client, FEED, () => {}, options);
  socket.end();
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  FakeSocket.last.confirm(undefined, { resume: 'exact', missed: '0' });
  await settled();
  assert.ok(givenUp.signal.aborted);
  assert.deepEqual(lives, [false]);
});

// ---- coming back ----

test('a time is obeyed, with a random part', async (context) => {
  for (const [random, delay] of [[0, 5_000], [0.999, 9_995]]) {
    await context.test(`random ${random}`, async (context) => {
      const { socket, states } = await connected(context, { random });
      socket.refuse('broker-unavailable', '5s', { close: 1013 });
      const [state, detail] = states.at(-1);
      assert.deepEqual([state, detail.delay, detail.problem.code], ['waiting', delay, 'broker-unavailable']);
      await pass(context, delay - 1, 500);
      assert.equal(FakeSocket.all.length, 1);
      await pass(context, 1);
      assert.equal(FakeSocket.all.length, 2);
    });
  }
});

test('a drain: the client goes to another server, with its subscriptions, and unconfirmed messages are known as such', async (context) => {
  const { client, socket, states } = await connected(context);
  await subscribed(client, FEED);
  const sending = client.publish(FEED, 'x');
  socket.refuse('shutting-down', '1s', { close: 1012 });
  await assert.rejects(sending, { code: 'connection-lost', fate: 'unknown' });
  assert.equal(states.at(-1)[1].problem.code, 'shutting-down');
  await pass(context, 2_000);
  FakeSocket.last.accept();
  await settled();
  assert.equal(FakeSocket.last.frames('SUBSCRIBE').length, 1);
});

test('without advice the pauses grow, until a session was steady', async (context) => {
  const { socket, states } = await connected(context, { random: 1 });
  const delay = () => states.at(-1)[1].delay;
  socket.end();
  for (const expected of [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
    assert.equal(delay(), expected);
    await pass(context, expected);
    FakeSocket.last.end();
  }
  // A login alone is no success: what follows may fail each time.
  await pass(context, 30_000);
  FakeSocket.last.accept();
  await settled();
  FakeSocket.last.end();
  assert.equal(delay(), 30_000);
  await pass(context, 30_000);
  FakeSocket.last.accept();
  await pass(context, 10_000);
  FakeSocket.last.end();
  assert.equal(delay(), 1_000);
});

test('a session in which a subscription got no answer is no success, though a later one got its', async (context) => {
  const { client, socket, states } = await connected(context, { random: 1 });
  await subscribed(client, FEED);
  socket.end();
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  await subscribed(client, '/exchange/feed/another'); // FEED's SUBSCRIBE waits still
  await pass(context, 20_000);
  FakeSocket.last.end();
  assert.equal(states.at(-1)[1].delay, 2_000);
});

test('a permanent refusal ends it, with the reason; the application may begin anew', async (context) => {
  const { client, socket, states, names } = await connected(context);
  await subscribed(client, FEED);
  const waiting = client.subscribe('/exchange/feed/never-answered', () => {});
  await settled();
  socket.refuse('kicked', 'no');
  const { code, message, detail, next } = states.at(-1)[1].problem;
  assert.deepEqual([code, message, detail, next], ['kicked', 'words of kicked', 'more words', 'stop']);
  await assert.rejects(waiting, { code: 'kicked' });
  await pass(context, 600_000, 10_000);
  assert.equal(FakeSocket.all.length, 1);
  assert.equal(names().at(-1), 'ended');
  await assert.rejects(client.publish(FEED, ''), { code: 'not-connected', fate: 'unsent' });
  const opening = client.connect();
  await settled();
  FakeSocket.last.accept();
  await opening;
  await settled();
  assert.deepEqual(FakeSocket.last.frames('SUBSCRIBE').map(({ headers }) => headers.destination), [FEED]);
});

test('a request that is refused after its time-out is still one request', async (context) => {
  const { client, socket, states } = await connected(context, { publishTimeout: 1_000 });
  const sending = client.publish(FEED, 'x');
  await settled();
  const frame = socket.sent.at(-1);
  const late = assert.rejects(sending, { code: 'no-receipt', fate: 'unknown' });
  await pass(context, 1_000);
  await late;
  socket.refuse('permission-denied', 'no', { frame });
  assert.deepEqual([states.at(-1)[0], states.at(-1)[1].problem.code], ['waiting', 'permission-denied']);
});

test('a message that is too large is refused, and the session begins anew without it', async (context) => {
  for (const isAlone of [true, false]) {
    await context.test(isAlone ? 'alone' : 'among others', async (context) => {
      const { client, socket, names } = await connected(context);
      await subscribed(client, FEED);
      const sending = [client.publish(FEED, 'too large')];
      if (!isAlone) sending.push(client.publish(FEED, 'another'));
      socket.refuse('frame-too-large', 'no', { close: 1009 }); // of a message as a whole, the gateway reads no receipt
      const fate = isAlone ? { code: 'frame-too-large', fate: 'refused' } : { code: 'connection-lost', fate: 'unknown' };
      for (const one of sending) await assert.rejects(one, fate);
      assert.equal(names().at(-1), 'waiting');
      await pass(context, 1_000);
      FakeSocket.last.accept();
      await settled();
      assert.equal(FakeSocket.last.frames('SUBSCRIBE').length, 1);
    });
  }
});

test('an acknowledgement that is refused ends the session, and another begins', async (context) => {
  for (const code of ['invalid-message-id', 'no-subscription', 'unknown-delivery']) {
    await context.test(code, async (context) => {
      const { client, socket, names } = await connected(context);
      const { id } = await subscribed(client, FEED, ({ ack }) => { ack(); ack(); }, { headers: { ack: 'client-individual' } });
      socket.answer('MESSAGE', { subscription: id, 'message-id': '1', ack: '1' }, 'x');
      assert.equal(socket.frames('ACK').length, 2);
      socket.refuse(code, 'no', { close: 1002 }); // the ACK of the library has no receipt
      assert.equal(names().at(-1), 'waiting');
      await pass(context, 1_000);
      FakeSocket.last.accept();
      await settled();
      assert.equal(FakeSocket.last.frames('SUBSCRIBE').length, 1);
    });
  }
});

test('a receipt is told before headers that may be too long, so that the server can name it', async (context) => {
  const { client, socket } = await connected(context);
  const chunks = [];
  socket.send = (data) => chunks.push(data);
  client.publish(FEED, 'x', { kind: 'note', receipt: 'none of ours' }).catch(() => {});
  client.subscribe(FEED, () => {}, { headers: { selector: 'a = 1' } });
  await settled();
  assert.match(chunks[0], /^SEND\ndestination:[^\n]+\nreceipt:receipt-1\nkind:note\n/);
  assert.match(chunks[1], /^SUBSCRIBE\nreceipt:receipt-2\nselector:/);
});

test('the code of a close counts where there is no ERROR', async (context) => {
  for (const [close, state] of [[1002, 'ended'], [1008, 'ended'], [1009, 'ended'], [1000, 'waiting'], [1006, 'waiting'], [1011, 'waiting'], [1012, 'waiting'], [1013, 'waiting'], [4001, 'waiting']]) {
    await context.test(`${close}`, async (context) => {
      const { socket, names } = await connected(context);
      socket.end(close);
      assert.equal(names().at(-1), state);
    });
  }
});

test('a server that SockJS cannot reach is tried again', async (context) => {
  const { client, names } = made(context);
  const opening = client.connect();
  await settled();
  FakeSocket.last.end(1002); // sockjs-client: "Cannot connect to server"
  assert.equal(names().at(-1), 'waiting');
  await pass(context, 8_000);
  FakeSocket.last.accept();
  await opening;
  FakeSocket.last.end(1006);
  await pass(context, 8_000);
  FakeSocket.last.end(1002);
  assert.equal(names().at(-1), 'waiting');
});

test('a SockJS session whose download broke off is followed by another', async (context) => {
  const { socket, names } = await connected(context);
  socket.end(1002, 'Connection interrupted');
  assert.equal(names().at(-1), 'waiting');
});

test('a login that fails: without advice it is final, with a time it is not', async (context) => {
  const { client, states } = made(context);
  const opening = client.connect();
  await settled();
  FakeSocket.last.open();
  FakeSocket.last.refuse('login-unavailable', '5s', { close: 1013 });
  await pass(context, 8_000);
  FakeSocket.last.open();
  FakeSocket.last.refuse('whatever', undefined);
  await assert.rejects(opening, { code: 'whatever', next: 'stop' });
  assert.equal(states.at(-1)[0], 'ended');
});

test('a server that does not answer is given up', async (context) => {
  const { client, states } = made(context);
  client.connect();
  await settled();
  FakeSocket.last.dead = true;
  FakeSocket.last.open();
  await pass(context, 20_000, 1_000);
  assert.equal(states.at(-1)[0], 'waiting');
  assert.match(states.at(-1)[1].problem.message, /did not answer/);
  await pass(context, 1_000);
  assert.equal(FakeSocket.all.length, 2);
});

test('no WebSocket, or an address that is none, is told at once', async (context) => {
  const { client, states } = made(context, { webSocketFactory: () => { throw new SyntaxError('invalid URL'); } });
  await assert.rejects(client.connect(), { code: 'no-socket', message: /invalid URL/ });
  assert.equal(states.at(-1)[0], 'ended');
});

// ---- tokens ----

/** A getter of tokens, and with which reasons it was asked. */
function tokens(answer = (count) => `token-${count}`) {
  const reasons = [];
  const getToken = ({ reason, signal }) => {
    reasons.push(reason);
    return answer(reasons.length, signal);
  };
  return { reasons, getToken };
}

test('a token is fetched before each connecting', async (context) => {
  const { reasons, getToken } = tokens(async (count) => `token-${count}`);
  const { socket } = await connected(context, { getToken, headers: {} });
  assert.equal(socket.sent[0].headers.passcode, 'token-1');
  socket.end();
  await pass(context, 1_000);
  FakeSocket.last.open();
  assert.equal(FakeSocket.last.sent[0].headers.passcode, 'token-2');
  assert.deepEqual(reasons, ['connect', 'connect']);
});

test('refused credentials are renewed once', async (context) => {
  const { reasons, getToken } = tokens();
  const { client, states } = made(context, { getToken });
  client.connect();
  await settled();
  FakeSocket.last.open();
  FakeSocket.last.refuse('login-refused', 'renew');
  await pass(context, 1_000);
  assert.deepEqual(reasons, ['connect', 'refused']);
  FakeSocket.last.open();
  FakeSocket.last.refuse('login-refused', 'renew');
  assert.equal(states.at(-1)[0], 'ended');
  assert.equal(states.at(-1)[1].problem.next, 'renew');
});

test('a lost connection uses up no renewal: only a token that was asked for as refused, and is refused itself, is the last', async (context) => {
  const { reasons, getToken } = tokens();
  const { client, states } = made(context, { getToken });
  client.connect();
  await settled();
  FakeSocket.last.open();
  FakeSocket.last.refuse('login-refused', 'renew');
  await pass(context, 1_000);
  FakeSocket.last.open();
  FakeSocket.last.end(); // nobody has judged the new token
  await pass(context, 2_000);
  FakeSocket.last.open();
  assert.deepEqual(reasons, ['connect', 'refused', 'refused']);
  FakeSocket.last.refuse('login-refused', 'renew');
  assert.equal(states.at(-1)[0], 'ended');
});

test('a token that is refused again and again ends the client, whatever comes in between', async (context) => {
  const { getToken } = tokens();
  const { client, states } = made(context, { getToken });
  client.connect();
  await settled();
  for (let round = 0; round < 20 && states.at(-1)[0] !== 'ended'; round += 1) {
    FakeSocket.last.open();
    if (round % 2 === 0) FakeSocket.last.refuse('login-refused', 'renew');
    else FakeSocket.last.refuse('too-many-connections', '1s');
    await pass(context, 120_000);
  }
  assert.equal(states.at(-1)[0], 'ended');
});

test('a refused password is final', async (context) => {
  const { client, names } = made(context);
  client.connect();
  await settled();
  FakeSocket.last.open();
  FakeSocket.last.refuse('login-refused', 'renew');
  assert.equal(names().at(-1), 'ended');
});

test('an expired token brings a new one, and the client back at once; but not in a circle', async (context) => {
  const { reasons, getToken } = tokens();
  const { socket, states } = await connected(context, { getToken });
  socket.refuse('token-expired', 'renew');
  assert.equal(states.at(-1)[1].delay, 0);
  await pass(context, 1);
  assert.deepEqual(reasons, ['connect', 'refused']);
  FakeSocket.last.accept();
  await settled();
  FakeSocket.last.refuse('token-expired', 'renew');
  assert.equal(states.at(-1)[1].delay, 1_000);
});

test('a page of an error in place of a token is no token', async (context) => {
  const { getToken, reasons } = tokens((count) => (count === 1 ? '<html>\n</html>' : 'token\n'));
  const { client, states, problems } = made(context, { getToken });
  const sockets = FakeSocket.all.length;
  client.connect();
  await settled();
  assert.deepEqual([states.at(-1)[0], problems[0]?.code, FakeSocket.all.length], ['waiting', 'token-unavailable', sockets]);
  assert.ok(!problems[0].cause.message.includes('html')); // logs may show it
  await pass(context, 1_000);
  FakeSocket.last.open();
  assert.deepEqual([reasons.length, FakeSocket.last.frames('CONNECT')[0].headers.passcode], [2, 'token']);
});

test('a getter that throws, hangs or has none', async (context) => {
  const signals = [];
  const { getToken, reasons } = tokens((count, signal) => {
    signals.push(signal);
    if (count === 1) throw new Error('secret words');
    if (count === 2) return new Promise(() => {});
    return null;
  });
  const { client, states, problems } = made(context, { getToken });
  const opening = client.connect();
  await settled();
  assert.deepEqual([states.at(-1)[0], problems[0].code, problems[0].cause.message], ['waiting', 'token-unavailable', 'secret words']);
  assert.ok(!problems[0].message.includes('secret'));
  await pass(context, 500);
  assert.equal(reasons.length, 2);
  assert.equal(client.state, 'connecting');
  await pass(context, 10_000);
  assert.match(problems[1].cause.message, /too long/);
  assert.ok(signals[1].aborted);
  await pass(context, 1_000);
  await assert.rejects(opening, { code: 'no-token' });
  assert.equal(states.at(-1)[0], 'ended');
  assert.equal(FakeSocket.all.length, 0);
});

test('a session is renewed in time, again and again', async (context) => {
  const { reasons, getToken } = tokens();
  const { socket, names } = await connected(context, { getToken, connected: { 'expires-in': '100' } });
  for (let round = 1; round <= 3; round += 1) {
    await pass(context, 79_900, 1_000);
    assert.equal(socket.frames('SEND').length, round - 1, 'not before 80 %');
    await pass(context, 200, 100);
    const { headers } = socket.frames('SEND').at(-1);
    assert.deepEqual([headers.destination, headers.token], ['/auth/renew', `token-${round + 1}`]);
    socket.confirm(undefined, { 'expires-in': '100' });
    await settled();
  }
  assert.deepEqual(reasons, ['connect', 'renew', 'renew', 'renew']);
  assert.deepEqual(names(), ['connecting', 'connected']);
});

test('a renewal that fails is tried again until the session ends', async (context) => {
  const { reasons, getToken } = tokens((count) => {
    if (count > 1) throw new Error('away');
    return 'token';
  });
  const { socket, names } = await connected(context, { getToken, connected: { 'expires-in': '100' } });
  await pass(context, 99_000, 500);
  const { length } = reasons;
  assert.ok(length >= 3 && length <= 8, `${length} calls`);
  await pass(context, 3_000, 500);
  assert.equal(reasons.length, length);
  assert.equal(names().at(-1), 'connected');
  socket.refuse('token-expired', 'renew');
  assert.equal(names().at(-1), 'waiting');
});

test('a renewal that finds nobody logged in ends the client', async (context) => {
  const { reasons, getToken } = tokens((count) => (count === 1 ? 'token' : null));
  const { client, socket, states, names, problems } = await connected(context, { getToken, connected: { 'expires-in': '100' } });
  await subscribed(client, FEED);
  await pass(context, 79_000, 1_000);
  const sending = client.publish(FEED, 'last words');
  await pass(context, 2_000);
  assert.deepEqual([reasons, problems], [['connect', 'renew'], []]);
  assert.deepEqual([states.at(-1)[0], states.at(-1)[1].problem?.code], ['ended', 'no-token']);
  const [send, disconnect] = socket.sent.slice(-2);
  assert.deepEqual([send.command, disconnect.command], ['SEND', 'DISCONNECT']);
  socket.confirm(send);
  socket.confirm(disconnect);
  await sending;
  await pass(context, 600_000, 10_000);
  assert.deepEqual([FakeSocket.all.length, socket.readyState, reasons.length, names().at(-1)], [1, 3, 2, 'ended']);
  client.connect().catch(() => {});
  await pass(context, 1_000);
  assert.deepEqual(reasons.slice(2), ['connect']);
});

test('a refused renewal asks for another token, while the session goes on', async (context) => {
  const { reasons, getToken } = tokens();
  const { socket, names } = await connected(context, { getToken, connected: { 'expires-in': '100' } });
  await pass(context, 80_100, 1_000);
  socket.deny('renewal-refused', 'renew', { frame: socket.sent.at(-1) });
  await pass(context, 11_000, 1_000);
  assert.deepEqual(reasons, ['connect', 'renew', 'refused']);
  socket.deny('renewal-unavailable', '5s', { frame: socket.sent.at(-1) });
  await pass(context, 4_500);
  assert.equal(reasons.length, 3, 'not before the time that the server says');
  await pass(context, 1_000);
  assert.deepEqual(reasons, ['connect', 'renew', 'refused', 'renew']);
  socket.confirm(undefined, { 'expires-in': '100' });
  await pass(context, 60_000, 5_000);
  assert.deepEqual(names(), ['connecting', 'connected']);
});

test('a refused renewal that ends the session, and a session without an end', async (context) => {
  const { reasons, getToken } = tokens();
  const { socket, names } = await connected(context, { getToken, connected: { 'expires-in': '100' } });
  await pass(context, 81_000, 1_000);
  socket.refuse('login-refused', 'renew', { frame: socket.sent.at(-1) });
  await pass(context, 1_000);
  assert.deepEqual(reasons, ['connect', 'renew', 'refused']);
  FakeSocket.last.accept();
  await pass(context, 1_000_000, 50_000);
  assert.equal(reasons.length, 3);
  assert.equal(names().at(-1), 'connected');
});

test('a device that slept through its renewal renews when it wakes', async (context) => {
  const { reasons, getToken } = tokens();
  const { client } = await connected(context, { getToken, connected: { 'expires-in': '3600' } });
  context.mock.timers.setTime(Date.now() + 3_000_000);
  client.wake();
  await settled();
  assert.deepEqual(reasons, ['connect', 'renew']);
});

test('a renewal ends with its session: by close, or with a lost connection', async (context) => {
  for (const end of ['close', 'loss']) {
    await context.test(end, async (context) => {
      const signals = [];
      const { reasons, getToken } = tokens((count, signal) => {
        signals.push(signal);
        return count === 2 ? new Promise((_, reject) => { signal.addEventListener('abort', () => reject(signal.reason)); }) : `token-${count}`;
      });
      const { client, socket, problems } = await connected(context, { getToken, connected: { 'expires-in': '3600' } });
      await pass(context, 2_900_000, 50_000);
      assert.deepEqual(reasons, ['connect', 'renew']);
      if (end === 'close') {
        const closing = client.close();
        await settled();
        assert.ok(signals[1].aborted);
        await pass(context, 1_000);
        socket.confirm(socket.frames('DISCONNECT')[0]);
        await closing;
      } else {
        socket.end();
        assert.ok(signals[1].aborted);
        await pass(context, 1_000);
        FakeSocket.last.accept();
      }
      await pass(context, 3_600_000, 50_000);
      assert.deepEqual(reasons.slice(2), end === 'close' ? [] : ['connect']);
      assert.deepEqual(problems, []);
      assert.equal(client.state, end === 'close' ? 'closed' : 'connected');
    });
  }
});

test('a token that nobody waits for any more is no problem', async (context) => {
  const { reasons, getToken } = tokens((count) => (count === 1 ? new Promise(() => {}) : 'token'));
  const { client, problems } = made(context, { getToken });
  client.connect().catch(() => {});
  await settled();
  const closing = client.close();
  client.connect();
  await settled();
  FakeSocket.last.accept();
  await closing;
  assert.deepEqual([reasons, problems, client.state], [['connect', 'connect'], [], 'connected']);
});

test('a token that was refused is not asked for as any other, although the getter fails meanwhile', async (context) => {
  const { reasons, getToken } = tokens((count) => {
    if (count === 2 || count === 3 || count === 6) throw new Error('away');
    return `token-${count}`;
  });
  const { client, names } = made(context, { getToken });
  client.connect();
  await settled();
  FakeSocket.last.open();
  FakeSocket.last.refuse('login-refused', 'renew');
  await pass(context, 20_000, 500);
  assert.deepEqual(reasons, ['connect', 'refused', 'refused', 'refused']);
  FakeSocket.last.accept({ 'expires-in': '100' });
  assert.equal(names().at(-1), 'connected');
  await pass(context, 80_100, 1_000);
  FakeSocket.last.deny('renewal-refused', 'renew', { frame: FakeSocket.last.sent.at(-1) });
  await pass(context, 16_000, 1_000);
  assert.deepEqual(reasons.slice(4), ['renew', 'refused', 'refused']);
});

test('who closes while it connects is asked for no token', async (context) => {
  const { reasons, getToken } = tokens();
  const { client } = made(context, { getToken, onState: (state) => state === 'connecting' && client.close() });
  await assert.rejects(client.connect(), { code: 'closed' });
  await settled();
  assert.deepEqual(reasons, []);
});

test('a token is sent without the line’s end that a file or a program gave it', async (context) => {
  const { getToken } = tokens((count) => `token-${count}\r\n`);
  const { socket } = await connected(context, { getToken, connected: { 'expires-in': '100' } });
  await pass(context, 80_100, 1_000);
  assert.deepEqual([socket.sent[0].headers.passcode, socket.sent.at(-1).headers.token], ['token-1', 'token-2']);
  assert.equal(socket.sent[0].headers['accept-version'], '1.2,1.1,1.0');
});

// ---- publishing ----

test('a message is confirmed, refused, or of unknown fate', async (context) => {
  const { client, socket } = await connected(context);
  const publish = async () => {
    const sending = client.publish(FEED, 'x', { kind: 'note' });
    await settled();
    return [sending, socket.sent.at(-1)];
  };
  const [confirmed, frame] = await publish();
  assert.deepEqual([frame.command, frame.headers.kind, frame.body], ['SEND', 'note', 'x']);
  socket.confirm(frame);
  await confirmed;

  const [denied, second] = await publish();
  socket.deny('permission-denied', 'no', { frame: second });
  await assert.rejects(denied, { code: 'permission-denied', fate: 'refused' });

  const [slow] = await publish();
  const late = assert.rejects(slow, { code: 'no-receipt', fate: 'unknown' });
  await pass(context, 60_000, 10_000);
  await late;

  const bytes = client.publish(FEED, Uint8Array.of(0, 255));
  assert.deepEqual([...socket.sent.at(-1).binaryBody], [0, 255]);
  const [away, last] = await publish();
  socket.refuse('broker-unavailable', '5s', { frame: last, close: 1013 });
  await assert.rejects(away, { code: 'broker-unavailable', fate: 'unknown' });
  await assert.rejects(bytes, (problem) => problem instanceof Problem && problem.fate === 'unknown');
  await assert.rejects(client.publish(FEED, ''), { fate: 'unsent' });
});

test('bytes are refused at the call over SockJS, which carries texts only', async (context) => {
  const server = createServer((request, response) => { response.end(JSON.stringify({ websocket: true, cookie_needed: false, origins: ['*:*'], entropy: 1 })); });
  const bodies = [];
  new WebSocketServer({ server }).on('connection', (socket) => {
    const say = (...frame) => socket.send(`a${JSON.stringify([encodeFrame(...frame)])}`);
    const parser = new Parser((raw) => {
      const { command, headers, body } = FrameImpl.fromRawFrame(raw, true);
      if (command === 'CONNECT') say('CONNECTED', { version: '1.2', 'heart-beat': '0,0' });
      if (command === 'SEND') bodies.push(body);
      if (headers.receipt) say('RECEIPT', { 'receipt-id': headers.receipt });
    }, () => {});
    socket.on('message', (data) => { for (const text of JSON.parse(data)) parser.parseChunk(text); });
    socket.send('o');
  });
  await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
  context.after(() => server.close());
  const client = new StentorClient({
    Stomp: Client,
    stomp: { heartbeatIncoming: 0, heartbeatOutgoing: 0 },
    webSocketFactory: () => new SockJS(`http://127.0.0.1:${server.address().port}/stomp`, null, { transports: 'websocket', timeout: 20_000 }),
  });
  context.after(() => client.close());
  await client.connect();
  await assert.rejects(client.publish(FEED, Uint8Array.of(0, 255)), (problem) => {
    assert.deepEqual([problem.code, problem.next, problem.fate], ['text-only', 'stop', 'unsent']);
    return /base64/.test(problem.message);
  });
  await client.publish(FEED, 'text');
  assert.deepEqual([bodies, client.state], [['text'], 'connected']);
});

test('a message is unsent where the socket closes already, for that drops it', async (context) => {
  const { client, socket } = await connected(context);
  socket.readyState = 2;
  const sending = client.publish(FEED, 'x');
  const subscribing = client.subscribe(FEED, () => {});
  socket.end();
  await assert.rejects(sending, { code: 'unsent', fate: 'unsent' });
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  FakeSocket.last.confirm();
  await subscribing;
});

test('times that are not given, or have no end', async (context) => {
  const { client, names } = made(context, { connectTimeout: undefined, subscribesPerSecond: undefined, publishTimeout: Infinity });
  client.connect();
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  await subscribed(client, FEED);
  let isSettled = false;
  client.publish(FEED, 'x').catch(() => {}).then(() => { isSettled = true; });
  await pass(context, 3_600_000, 60_000);
  assert.equal(isSettled, false);
  assert.deepEqual(names(), ['connecting', 'connected']);
});

test('a message that was refused, or never confirmed, is not kept in memory', async (context) => {
  const { client, socket } = await connected(context, { publishTimeout: 1_000 });
  const publish = () => {
    const body = new Uint8Array(10_000);
    client.publish(FEED, body).catch(() => {});
    const kept = new WeakRef(body);
    const frame = socket.sent.pop();
    socket.sent = [];
    return { kept, frame: { headers: frame.headers } };
  };
  const [refused, late] = [publish(), publish()];
  socket.deny('permission-denied', 'no', { frame: refused.frame });
  await pass(context, 2_000);
  collector()();
  assert.deepEqual([refused, late].map(({ kept }) => kept.deref() === undefined), [true, true]);
});

// ---- the end ----

test('close confirms what was sent, and takes its leave', async (context) => {
  const { client, socket, names } = await connected(context);
  const sending = client.publish(FEED, 'last words');
  const closing = client.close();
  assert.equal(client.close(), closing);
  const [send, disconnect] = socket.sent.slice(-2);
  assert.equal(disconnect.command, 'DISCONNECT');
  socket.confirm(send);
  socket.confirm(disconnect);
  await sending;
  await closing;
  assert.equal(names().at(-1), 'closed');
  await pass(context, 60_000, 10_000);
  assert.equal(FakeSocket.all.length, 1);
});

test('close does not wait for a server that is gone', async (context) => {
  const { client, socket } = await connected(context);
  socket.dead = true;
  let isClosed = false;
  client.close().then(() => { isClosed = true; });
  await pass(context, 4_900);
  assert.equal(isClosed, false);
  await pass(context, 200);
  assert.ok(isClosed);
});

test('close at every moment of a connecting', async (context) => {
  const moments = {
    'before the token': async () => {},
    'after a token': async ({ give }) => give('token'),
    ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8].map((turns) => [`${turns} turns after a token`, async ({ give }) => {
      give('token');
      for (let turn = 0; turn < turns; turn += 1) await null;
    }])),
    'while the socket opens': async ({ give }) => { give('token'); await settled(); },
    'before CONNECTED': async ({ give }) => { give('token'); await settled(); FakeSocket.last.open(); },
    'while it waits': async ({ give }) => { give('token'); await settled(); FakeSocket.last.end(); },
  };
  for (const [name, reach] of Object.entries(moments)) {
    await context.test(name, async (context) => {
      let give;
      let signal;
      const getToken = (order) => { signal = order.signal; return new Promise((resolve) => { give = resolve; }); };
      const { client, states, problems } = made(context, { getToken });
      const opening = assert.rejects(client.connect(), { code: 'closed' });
      const ready = assert.rejects(client.subscribe(FEED, () => {}), { code: 'closed' });
      await reach({ give: (token) => give(token) });
      await client.close();
      await opening;
      await ready;
      give('late');
      await settled();
      assert.ok(FakeSocket.all.every(({ readyState }) => readyState === 3));
      const count = FakeSocket.all.length;
      await pass(context, 120_000, 10_000);
      assert.equal(FakeSocket.all.length, count, 'nothing comes after it');
      assert.deepEqual([states.at(-1)[0], problems], ['closed', []]);
      if (name === 'before the token') assert.ok(signal.aborted);
    });
  }
});

test('connect twice is once; and after close it is anew', async (context) => {
  const { client } = made(context);
  assert.equal(client.connect(), client.connect());
  await settled();
  assert.equal(FakeSocket.all.length, 1);
  FakeSocket.last.accept();
  const closing = client.close();
  const again = client.connect();
  await settled();
  FakeSocket.all[0].confirm();
  FakeSocket.last.accept();
  await again;
  await closing;
  assert.equal(client.state, 'connected');
  assert.equal(FakeSocket.all.length, 2);
});

test('close and connect when it is connected: each connect() hears of its own connection', async (context) => {
  let again;
  const { client } = made(context, {
    onState: (state) => {
      if (state !== 'connected' || again) return;
      client.close();
      again = client.connect();
    },
  });
  const opening = client.connect();
  await settled();
  FakeSocket.last.accept();
  await opening;
  let isOpen = false;
  again.then(() => { isOpen = true; });
  await settled();
  assert.equal(isOpen, false);
  FakeSocket.last.accept();
  await settled();
  assert.equal(isOpen, true);
});

test('close, connect, close: the second end is one of its own, and waits for the first', async (context) => {
  const { client, socket: first, names } = await connected(context);
  client.close();
  client.connect().catch(() => {});
  await settled();
  const second = FakeSocket.last;
  second.accept();
  await settled();
  let isClosed = false;
  const closing = client.close().then(() => { isClosed = true; });
  client.close();
  assert.deepEqual([first, second].map((socket) => socket.frames('DISCONNECT').length), [1, 1]);
  second.confirm();
  await settled();
  assert.equal(second.readyState, 3);
  assert.equal(isClosed, false);
  first.confirm();
  await closing;
  await pass(context, 60_000, 10_000);
  assert.deepEqual([names().at(-1), names().filter((name) => name === 'closed').length, FakeSocket.all.length], ['closed', 1, 2]);
});

test('a subscription that is made while the client closes is forgotten by the next close', async (context) => {
  const { client, socket } = await connected(context);
  const closing = client.close();
  const subscribing = assert.rejects(client.subscribe(FEED, () => {}), { code: 'closed' });
  assert.equal(client.close(), closing);
  await subscribing;
  socket.confirm();
  await closing;
});

test('waking, a client that is being closed does nothing', async (context) => {
  const { client, socket, names } = await connected(context);
  socket.end();
  assert.equal(names().at(-1), 'waiting');
  const closing = client.close();
  client.wake();
  await closing;
  await pass(context, 60_000, 10_000);
  assert.equal(FakeSocket.all.length, 1);
});

// ---- sleep and networks ----

test('waking, a client asks for a sign of life, and gives a dead connection up', async (context) => {
  const { client, socket, names } = await connected(context);
  client.wake();
  client.wake();
  assert.equal(socket.frames('BEGIN').length, 1);
  assert.equal(socket.frames('ABORT').length, 1);
  socket.confirm(socket.frames('BEGIN')[0]);
  await pass(context, 60_000, 1_000);
  assert.equal(names().at(-1), 'connected');
  socket.dead = true;
  client.wake();
  assert.equal(socket.frames('BEGIN').length, 2);
  await pass(context, 5_000, 500);
  assert.equal(names().at(-1), 'waiting');
});

test('whatever the server says is a sign of life, also while it has not confirmed what came before', async (context) => {
  const heard = [];
  const stomp = { onUnhandledMessage: ({ body }) => heard.push(body), onUnhandledReceipt: ({ headers }) => heard.push(headers['receipt-id']) };
  const { client, socket, names } = await connected(context, { stomp });
  const { id } = await subscribed(client, FEED);
  const signs = {
    'a message': () => socket.answer('MESSAGE', { subscription: id }),
    'a beat': () => socket.onmessage({ data: '\n' }),
    'a RECEIPT of another frame': () => socket.answer('RECEIPT', { 'receipt-id': 'ack-1' }),
    'a message of no subscription': () => socket.answer('MESSAGE', { subscription: '/temp-queue/x' }, 'reply'),
    'an ERROR': () => socket.deny('permission-denied', 'no', { subscription: 'another' }),
  };
  client.wake(); // nothing is awaited, but its answer is slow
  for (const say of Object.values(signs)) {
    await pass(context, 4_000);
    say();
  }
  assert.equal(names().at(-1), 'connected');
  assert.deepEqual(heard, ['ack-1', 'reply']);
  socket.confirm(socket.frames('BEGIN')[0]);
  await settled();
  // RabbitMQ restarts: RECEIPTs keep the order of frames, so the sign of life is behind that of the message.
  client.publish(FEED, 'x').catch(() => {});
  client.wake();
  for (const say of Object.values(signs)) {
    await pass(context, 9_500);
    say();
    assert.equal(names().at(-1), 'connected');
  }
  await pass(context, 14_900);
  assert.equal(names().at(-1), 'connected');
  await pass(context, 200);
  assert.equal(names().at(-1), 'waiting');
});

test('while a frame is not confirmed, waking waits for longer than heart-beats need', async (context) => {
  const { client, names } = await connected(context, { connected: { 'heart-beat': '30000,0' } });
  client.publish(FEED, 'x').catch(() => {});
  client.wake();
  await pass(context, 44_900);
  assert.equal(names().at(-1), 'connected');
  await pass(context, 200);
  assert.equal(names().at(-1), 'waiting');
});

test('a client in React Native asks for a sign of life in bytes, for texts are cut at their first NUL there', async (context) => {
  const { client, socket } = await connected(context, { stomp: { forceBinaryWSFrames: true } });
  const chunks = [];
  const { send } = socket;
  socket.send = (data) => { chunks.push(data); send.call(socket, data); };
  client.wake();
  assert.deepEqual(chunks.map((data) => data instanceof Uint8Array), [true]);
  assert.deepEqual(socket.sent.slice(-2).map(({ command }) => command), ['BEGIN', 'ABORT']);
});

test('a sign of life that comes while the client closes does not keep it waiting', async (context) => {
  const { client, socket } = await connected(context);
  client.wake();
  const [probe] = socket.frames('BEGIN');
  let isClosed = false;
  client.close().then(() => { isClosed = true; });
  socket.confirm(probe);
  await pass(context, 5_100);
  assert.ok(isClosed);
});

test('waking gives up a socket that closes and does not come to its end', async (context) => {
  const { client, socket, names } = await connected(context);
  Object.assign(socket, { dead: true, readyState: 2 });
  client.wake();
  await pass(context, 5_100);
  assert.equal(names().at(-1), 'waiting');
});

test('waking ends a pause of the client’s own, but not one that the server advised', async (context) => {
  const { client, socket } = await connected(context, { random: 0.9 });
  socket.end();
  for (let round = 0; round < 5; round += 1) {
    await pass(context, 30_000, 1_000);
    FakeSocket.last.end();
  }
  const { length } = FakeSocket.all;
  client.wake();
  await pass(context, 1_000);
  assert.equal(FakeSocket.all.length, length + 1);
  FakeSocket.last.open();
  FakeSocket.last.refuse('already-logged-in', '30s', { close: 1013 });
  client.wake();
  await pass(context, 29_000, 1_000);
  assert.equal(FakeSocket.all.length, length + 1);
  context.mock.timers.setTime(Date.now() + 60_000); // it sleeps, and the pause is over meanwhile
  client.wake();
  await settled();
  assert.equal(FakeSocket.all.length, length + 2);
});

test('a browser’s events wake it, until it is closed', async (context) => {
  const page = new EventTarget();
  const document = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  const given = { document, addEventListener: page.addEventListener.bind(page), removeEventListener: page.removeEventListener.bind(page) };
  Object.assign(globalThis, given);
  context.after(() => { for (const name of Object.keys(given)) delete globalThis[name]; });
  const { client, socket } = await connected(context);
  let count = 0;
  for (const [target, name] of [[page, 'online'], [page, 'offline'], [page, 'pageshow'], [document, 'visibilitychange'], [document, 'resume']]) {
    target.dispatchEvent(new Event(name));
    count += 1;
    assert.equal(socket.frames('BEGIN').length, count, name);
    socket.confirm(socket.frames('BEGIN').at(-1));
    await settled();
  }
  document.visibilityState = 'hidden';
  document.dispatchEvent(new Event('visibilitychange'));
  assert.equal(socket.frames('BEGIN').length, count);
  page.dispatchEvent(new Event('online')); // which is news for a hidden page, too
  count += 1;
  assert.equal(socket.frames('BEGIN').length, count);
  socket.confirm();
  await settled();
  const closing = client.close();
  socket.confirm();
  await closing;
  context.mock.method(client, 'wake', () => assert.fail('it hears no more'));
  document.visibilityState = 'visible';
  page.dispatchEvent(new Event('online'));
});

test('silence beyond the heart-beats is a lost connection', async (context) => {
  const { socket, names, states } = await connected(context, { connected: { 'heart-beat': '10000,10000' } });
  socket.dead = true;
  await pass(context, 19_000, 500);
  assert.equal(names().at(-1), 'connected');
  assert.ok(socket.frames('beat').length >= 1);
  await pass(context, 12_000, 500);
  assert.ok(names().includes('waiting'));
  const { problem } = states.find(([name]) => name === 'waiting')[1];
  assert.deepEqual([problem.code, problem.message], ['connection-lost', 'the server gave no sign of life']);
});

// ---- presence ----

test('a status is said now and at each login', async (context) => {
  const { client, socket } = await connected(context);
  const setting = client.setStatus('away');
  const { headers } = socket.sent.at(-1);
  assert.deepEqual([headers.destination, headers.status], ['/presence', 'away']);
  socket.confirm();
  await setting;
  const refused = client.setStatus('busy');
  socket.deny('permission-denied', 'no', { frame: socket.sent.at(-1) });
  await assert.rejects(refused, { code: 'permission-denied' });
  await assert.rejects(client.setStatus('asleep'), TypeError);
  socket.end();
  await pass(context, 1_000);
  FakeSocket.last.open();
  assert.equal(FakeSocket.last.sent[0].headers['presence-status'], 'away');
});

test('a status that is set between the login and its answer is said behind it', async (context) => {
  const { client } = made(context);
  client.connect();
  await settled();
  const socket = FakeSocket.last;
  socket.open();
  const setting = client.setStatus('away');
  socket.answer('CONNECTED', { version: '1.2', 'heart-beat': '0,0' });
  await settled();
  assert.deepEqual(socket.frames('SEND').map(({ headers }) => headers.status), ['away']);
  socket.deny('permission-denied', 'no', { frame: socket.sent.at(-1) });
  await assert.rejects(setting, { code: 'permission-denied', fate: 'refused' });
  socket.end();
  await pass(context, 1_000);
  FakeSocket.last.accept();
  await settled();
  assert.deepEqual([FakeSocket.last.sent[0].headers['presence-status'], FakeSocket.last.frames('SEND')], [undefined, []]);
});

/** What has become of a promise: `waits`, `is done`, or the code and the fate of a problem. */
function outcomeOf(promise) {
  const seen = { now: 'waits' };
  promise.then(() => { seen.now = 'is done'; }, ({ code, fate }) => { seen.now = [code, fate].join(' ').trim(); });
  return seen;
}

test('a status is set when the server has confirmed it, and not when it is lost; the next login says it all the same', async (context) => {
  for (const [name, lose, expected] of [
    ['the connection is lost', ({ socket }) => socket.end(), 'connection-lost unknown'],
    ['no RECEIPT comes', async ({ socket }, context) => {
      await pass(context, 60_000, 10_000);
      socket.end();
    }, 'no-receipt unknown'],
  ]) {
    await context.test(name, async (context) => {
      const all = await connected(context);
      const setting = outcomeOf(all.client.setStatus('away'));
      await settled();
      assert.equal(setting.now, 'waits');
      await lose(all, context);
      await settled();
      assert.equal(setting.now, expected);
      await pass(context, 2_000);
      FakeSocket.last.open();
      assert.equal(FakeSocket.last.sent[0].headers['presence-status'], 'away');
      all.client.close();
      context.mock.timers.reset();
    });
  }
});

test('a status that is set without a connection is confirmed by the login that says it, or ends with the client', async (context) => {
  const { client, socket } = await connected(context);
  socket.end();
  const settings = ['away', 'busy'].map((status) => outcomeOf(client.setStatus(status)));
  await pass(context, 1_000);
  FakeSocket.last.end(); // one more try in vain
  await pass(context, 2_000);
  FakeSocket.last.open();
  assert.equal(FakeSocket.last.sent[0].headers['presence-status'], 'busy');
  assert.deepEqual(settings.map(({ now }) => now), ['waits', 'waits']);
  FakeSocket.last.accept();
  await settled();
  assert.deepEqual(settings.map(({ now }) => now), ['is done', 'is done']);
  assert.deepEqual(FakeSocket.last.frames('SEND'), []);
  FakeSocket.last.end();
  const closed = outcomeOf(client.setStatus('away'));
  client.close();
  await settled();
  assert.equal(closed.now, 'closed');
  await client.setStatus('invisible'); // nobody waits for a login; the next one says it
  client.connect();
  await settled();
  FakeSocket.last.open();
  assert.equal(FakeSocket.last.sent[0].headers['presence-status'], 'invisible');
  const ended = outcomeOf(client.setStatus('online'));
  FakeSocket.last.refuse('banned', 'no');
  await settled();
  assert.equal(ended.now, 'banned');
});

test('of several statuses that are refused none is said at the next login', async (context) => {
  const { client, socket } = await connected(context);
  const settings = ['away', 'busy'].map((status) => outcomeOf(client.setStatus(status)));
  for (const frame of socket.frames('SEND')) socket.deny('permission-denied', 'no', { frame });
  await settled();
  assert.deepEqual(settings.map(({ now }) => now), Array(2).fill('permission-denied refused'));
  socket.end();
  await pass(context, 1_000);
  FakeSocket.last.open();
  assert.equal(FakeSocket.last.sent[0].headers['presence-status'], undefined);
});

test('of two events of a user the later one holds', async (context) => {
  const { client, socket } = await connected(context);
  const seen = [];
  const watching = client.watchPresence('group.team', ({ user, status }) => seen.push(`${user} ${status}`));
  await settled();
  assert.equal(socket.sent.at(-1).headers.destination, '/exchange/presence/group.team');
  socket.confirm();
  const { id } = await watching;
  const event = (user, status, at) => socket.answer('MESSAGE', { subscription: id }, JSON.stringify({ type: 'status', user, status, at }));
  event('bob', 'away', '2026-11-20T13:57:00.2Z');
  event('bob', 'busy', '2026-11-20T13:57:00.1Z');
  event('bob', 'away', '2026-11-20T13:57:00.2Z');
  event('eve', 'busy', '2026-11-20T13:57:00.1Z');
  assert.deepEqual(seen, ['bob away', 'eve busy']);
});

// ---- robustness ----

test('a fault of the application is its own, and costs no frame', async (context) => {
  const { client, socket } = await connected(context);
  const bodies = [];
  const { id } = await subscribed(client, FEED, ({ body }) => {
    bodies.push(body);
    if (body === 'bad') throw new Error('a fault of the application');
  });
  for (const body of ['bad', 'good']) socket.answer('MESSAGE', { subscription: id }, body);
  assert.deepEqual(bodies, ['bad', 'good']);
  assert.throws(() => context.mock.timers.tick(1), /a fault of the application/);
});

test('a thousand reconnects leave nothing behind', async (context) => {
  const collect = collector();
  const page = new EventTarget();
  let listeners = 0;
  globalThis.addEventListener = (...its) => { listeners += 1; page.addEventListener(...its); };
  globalThis.removeEventListener = (...its) => { listeners -= 1; page.removeEventListener(...its); };
  context.after(() => { delete globalThis.addEventListener; delete globalThis.removeEventListener; });
  const { client } = made(context, { onState: () => {}, onProblem: () => {}, getToken: () => 'token' });
  client.connect();
  for (let key = 0; key < 20; key += 1) client.subscribe(`/exchange/feed/${key}`, () => {});
  const used = [];
  for (let round = 0; round <= 1_100; round += 1) {
    await settled();
    const socket = FakeSocket.last;
    FakeSocket.all = [socket];
    socket.accept({ 'expires-in': '3600' });
    await settled();
    for (const frame of socket.frames('SUBSCRIBE')) socket.confirm(frame);
    client.publish('/exchange/feed/x', 'lost').catch(() => {});
    client.wake();
    await settled();
    if (round % 2 === 0) socket.end();
    else socket.refuse('shutting-down', '1s', { close: 1012 });
    context.mock.timers.tick(31_000);
    if (round === 100 || round === 1_100) {
      collect();
      used.push(process.memoryUsage().heapUsed);
    }
  }
  await client.close();
  assert.equal(listeners, 0);
  const growth = used[1] - used[0];
  assert.ok(growth < 1_000_000, `1,000 reconnects: ${growth} bytes more`);
  context.diagnostic(`1,000 reconnects: ${growth} bytes more`);
});
