// examples/browser/chat without its looks: how often it asks its backend. Its client and `fetch` are the test's.
import assert from 'node:assert/strict';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { pass, settled } from './fake-socket.mjs';

const CLIENT = `export class StentorClient {
  static last;
  watches = [];
  constructor({ onState }) { Object.assign(this, { onState, subscriptions: [] }); StentorClient.last = this; }
  async connect() {}
  async subscribe(destination, onMessage, options) { this.subscriptions.push({ destination, onMessage, ...options }); }
  async watchPresence(key, onEvent, { onLive }) { this.watches.push({ onEvent, onLive }); }
}`;

const folder = await mkdtemp(join(tmpdir(), 'stentor-chat-'));
after(() => rm(folder, { recursive: true }));
const stub = join(folder, 'node_modules/stentor-client');
await mkdir(stub, { recursive: true });
await writeFile(join(stub, 'package.json'), '{ "type": "module", "exports": "./index.js" }');
await writeFile(join(stub, 'index.js'), CLIENT);
await writeFile(join(folder, 'package.json'), '{ "type": "module" }');
await cp(fileURLToPath(new URL('../../examples/browser/chat/chat.js', import.meta.url)), join(folder, 'chat.js'));
const { Chat } = await import(pathToFileURL(join(folder, 'chat.js')));
const { StentorClient } = await import(pathToFileURL(join(stub, 'index.js')));

/** A chat of one room, and the questions that its backend got: `answer()` answers the oldest. */
async function opened(context) {
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  context.mock.method(Math, 'random', () => 0);
  globalThis.document = new EventTarget();
  context.after(() => { delete globalThis.document; });
  const questions = [];
  let count = 0;
  context.mock.method(globalThis, 'fetch', () => {
    count += 1;
    return new Promise((resolve) => { questions.push(resolve); });
  });
  const answer = async () => {
    const me = { id: 'alice' };
    const rooms = [{ id: 'garden', name: 'Garden', topic: '', members: [{ id: 'alice' }, { id: 'bob', status: `of answer ${count}` }] }];
    questions.shift()({ ok: true, status: 200, json: async () => ({ me, rooms }) });
    await settled();
  };
  const chat = new Chat({ user: 'alice', passcode: 'x', backend: '', onChange() {}, onState() {} });
  const opening = chat.open();
  await answer();
  await opening;
  const [{ onEvent, onLive }] = StentorClient.last.watches;
  const status = () => chat.rooms.get('garden').members.get('bob').status;
  return { chat, answer, status, onLive, asked: () => count, event: () => onEvent({ user: 'bob', status: 'online' }) };
}

test('events that come all the time do not have the chat ask all the time', async (context) => {
  const { onLive, event, answer, asked } = await opened(context);
  onLive();
  assert.equal(asked(), 2);
  for (let round = 3; round < 8; round += 1) {
    event();
    await answer();
    event();
    await pass(context, 249, 83);
    assert.equal(asked(), round - 1, 'not at once');
    await pass(context, 1);
    assert.equal(asked(), round);
  }
  await answer(); // nothing is new since it was asked for
  await pass(context, 2_000, 250);
  assert.equal(asked(), 7);
});

test('the pause before the chat asks again is a random one', async (context) => {
  const { onLive, event, answer, asked } = await opened(context);
  context.mock.method(Math, 'random', () => 0.9);
  onLive();
  event();
  await answer();
  await pass(context, 470, 235);
  assert.equal(asked(), 2);
  await pass(context, 10);
  assert.equal(asked(), 3);
});

test('an answer that was on its way when an event came is not the last one', async (context) => {
  const { onLive, event, answer, status } = await opened(context);
  onLive();
  event();
  assert.equal(status(), 'online');
  await answer();
  assert.equal(status(), 'of answer 2');
  await pass(context, 500);
  await answer();
  assert.equal(status(), 'of answer 3');
});

test('who asks meanwhile waits for an answer to a later question, and for no more', async (context) => {
  const { chat, event, answer } = await opened(context);
  const done = [];
  chat.refresh().then(() => done.push('first'));
  chat.refresh().then(() => done.push('second'));
  await answer();
  assert.deepEqual(done, ['first']);
  chat.refresh().then(() => done.push('in the pause'));
  await pass(context, 500);
  event();
  await answer();
  assert.deepEqual(done, ['first', 'second', 'in the pause']);
});

test('what was said while the page was away is unread, and the history it begins with is not', async (context) => {
  const { chat } = await opened(context);
  const { onState, subscriptions: [{ onMessage, onLive }] } = StentorClient.last;
  const say = (id) => onMessage({ headers: { 'x-stomp-user': 'bob' }, body: JSON.stringify({ id, text: 'hello', at: '2026-11-30T12:00:00Z' }) });
  const room = chat.rooms.get('garden');
  say('1');
  onLive(false);
  assert.equal(room.unread, 0);
  onState('waiting', {});
  say('2');
  onLive(true);
  assert.equal(room.unread, 1);
  say('3');
  assert.equal(room.unread, 2);
});
