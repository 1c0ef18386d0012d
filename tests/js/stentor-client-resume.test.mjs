// The option `resume` of clients/js: against a WebSocket that the test plays, in time that the test lets pass.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Client } from '@stomp/stompjs';

import { StentorClient } from '../../clients/js/client.js';
import { FakeSocket, pass, settled } from './fake-socket.mjs';

globalThis.WebSocket = FakeSocket;

const FEED = '/exchange/feed/user_alice';
const CURSOR = '5b8d59a4-17-6ba4d1ed';

/** A storage of a browser; one that is full throws. */
function storage(entries = {}) {
  const all = new Map(Object.entries(entries));
  return { all, getItem: (key) => all.get(key) ?? null, setItem: (key, text) => { all.set(key, text); } };
}

/** A client that is connected, with one subscription that was asked for. `told` is what its callbacks heard. */
async function asked(context, resume, { headers, login = 'alice', host, ...more } = {}) {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_000_000 });
  FakeSocket.all = [];
  const told = [];
  const client = new StentorClient({ Stomp: Client, url: 'ws://test/ws', headers: { ...(login && { login }), ...(host && { host }) }, ...more });
  client.connect();
  await settled();
  FakeSocket.last.accept();
  await settled();
  const subscribing = client.subscribe(FEED, ({ body }) => told.push(body), {
    headers,
    resume,
    onLive: (again) => told.push(again ? 'live again' : 'live'),
    onResumed: ({ missed }) => told.push(`missed ${missed}`),
    onGap: (reason) => told.push(`gap ${reason}`),
    onProblem: ({ code, reason }) => told.push(['problem', code, reason].join(' ').trim()),
  });
  subscribing.catch(() => {});
  await settled();
  return { client, told, subscribing };
}

/** The last SUBSCRIBE, without its receipt. */
function wish() {
  const { receipt, id, destination, ...headers } = FakeSocket.last.frames('SUBSCRIBE').at(-1).headers;
  return headers;
}

async function close(client) {
  const closing = client.close();
  await settled();
  FakeSocket.last.confirm();
  await closing;
}

function receipt(headers) {
  FakeSocket.last.confirm(FakeSocket.last.frames('SUBSCRIBE').at(-1), headers);
  return settled();
}

function message(body, cursor) {
  const subscription = FakeSocket.last.frames('SUBSCRIBE').at(-1).headers.id;
  FakeSocket.last.answer('MESSAGE', { subscription, 'message-id': body, destination: FEED, ...(cursor && { cursor }) }, body);
}

/** The connection is lost, and another one is there. */
async function again(context) {
  await pass(context, 35_000); // a session that was steady is made anew within a second
  FakeSocket.last.end();
  await comesBack(context);
}

async function comesBack(context) {
  await pass(context, 5_000);
  FakeSocket.last.accept();
  await settled();
}

test('it comes back behind the last message', async (context) => {
  const { told } = await asked(context, true);
  assert.deepEqual(wish(), {});
  await receipt();
  message('one', 'a-1-b');
  message('two', CURSOR);
  await again(context);
  assert.deepEqual(wish(), { 'resume-after': CURSOR, 'resume-gap': 'next' });
  message('three', 'a-3-b');
  await receipt({ resume: 'exact', missed: '1' });
  assert.deepEqual(told, ['live', 'one', 'two', 'three', 'missed 1', 'live again']);
  await again(context);
  assert.equal(wish()['resume-after'], 'a-3-b');
  await receipt({ resume: 'exact', missed: 'more' });
  assert.deepEqual(told.slice(-2), ['missed more', 'live again']);
});

test('what comes in the same turn as the RECEIPT comes after the news of it', async (context) => {
  const { told } = await asked(context, true);
  FakeSocket.last.confirm();
  message('one', CURSOR);
  await again(context);
  FakeSocket.last.confirm(undefined, { resume: 'gap', reason: 'expired', missed: '0' });
  message('two', 'a-2-b');
  assert.deepEqual(told, ['live', 'one', 'gap expired', 'live again', 'two']);
});

test('it begins with history, once', async (context) => {
  const { told } = await asked(context, { begin: { last: 50 } });
  assert.deepEqual(wish(), { last: '50' });
  message('one', 'a-1-b');
  await receipt({ resume: 'exact', missed: '1' });
  assert.deepEqual(told, ['one', 'live'], 'a page that begins has missed nothing');
  await again(context);
  assert.deepEqual(wish(), { 'resume-after': 'a-1-b', 'resume-gap': 'next' });
  await receipt({ resume: 'exact', missed: '0' });
  assert.deepEqual(told.slice(-2), ['missed 0', 'live again']);
});

test('where there is no history, it comes back by time', async (context) => {
  await asked(context, { begin: { last: 50 } });
  await receipt({ resume: 'exact', missed: '0' });
  await again(context);
  assert.deepEqual(wish(), { since: '50s' });
});

test('without the option nothing is asked for', async (context) => {
  const { told } = await asked(context, undefined);
  await receipt();
  message('one', CURSOR);
  await again(context);
  assert.deepEqual(wish(), {});
  await receipt();
  assert.deepEqual(told, ['live', 'one', 'live again']);
});

test('before its first message it comes back by time', async (context) => {
  const { told } = await asked(context, true);
  await receipt();
  await pass(context, 20_000);
  await again(context);
  assert.deepEqual(wish(), { since: '70s' }); // 60 s, and 10 s for clocks
  await receipt({ resume: 'exact', missed: '0' });
  assert.deepEqual(told, ['live', 'missed 0', 'live again']);
  await again(context);
  assert.deepEqual(wish(), { since: '50s' }, 'what was heard is not asked for again');
  await receipt({ resume: 'exact', missed: 'more' });
  await again(context);
  assert.deepEqual(wish(), { since: '90s' }, 'for it may not have come');
});

test('a clock that is set back hides no message', async (context) => {
  await asked(context, true);
  const { now } = Date;
  context.mock.method(performance, 'now', () => now() - 1_000_000); // the page's own time, from the next SUBSCRIBE on
  await again(context);
  await receipt({ resume: 'exact', missed: '0' });
  Date.now = () => now() - 3_600_000;
  context.after(() => { Date.now = now; });
  await pass(context, 20_000);
  await again(context);
  assert.deepEqual(wish(), { since: '70s' });
});

test('a gap is told, and what was asked for is over', async (context) => {
  const { told } = await asked(context, true);
  await receipt();
  message('one', CURSOR);
  await again(context);
  await receipt({ resume: 'gap', reason: 'expired', missed: '0' });
  assert.deepEqual(told, ['live', 'one', 'gap expired', 'live again']);
  await again(context);
  assert.deepEqual(wish(), { since: '50s' });
});

test('behind a gap it stands where the RECEIPT says', async (context) => {
  await asked(context, true);
  await receipt();
  message('one', CURSOR);
  await again(context);
  await receipt({ resume: 'gap', reason: 'expired', missed: '0', cursor: 'a-9-b' });
  await again(context);
  assert.equal(wish()['resume-after'], 'a-9-b');
});

test('a page that begins with history is told what is missing of it', async (context) => {
  const { told } = await asked(context, { begin: { last: 50 } });
  message('one', CURSOR);
  await receipt({ resume: 'gap', reason: 'too-large', missed: '1' });
  assert.deepEqual(told, ['one', 'gap too-large', 'live']);
});

test('a message that came before the news of a gap is where it stands', async (context) => {
  const { told } = await asked(context, { gap: 'earliest' });
  await receipt();
  message('one', CURSOR);
  await again(context);
  assert.equal(wish()['resume-gap'], 'earliest');
  message('nine', 'a-9-b');
  await receipt({ resume: 'gap', reason: 'replaced', missed: '1' });
  assert.deepEqual(told.slice(-3), ['nine', 'gap replaced', 'live again']);
  await again(context);
  assert.equal(wish()['resume-after'], 'a-9-b');
});

test('a gap is told although the connection was lost before the RECEIPT that told it', async (context) => {
  const { told } = await asked(context, { gap: 'earliest' });
  await receipt();
  message('one', CURSOR);
  await again(context);
  message('seven', 'a-7-b');
  message('eight', 'a-8-b');
  await again(context);
  assert.equal(wish()['resume-after'], CURSOR, 'for nobody has said what is missing before seven');
  for (const [body, cursor] of [['seven', 'a-7-b'], ['eight', 'a-8-b'], ['nine', 'a-9-b']]) message(body, cursor);
  await receipt({ resume: 'gap', reason: 'expired', missed: '3' });
  assert.deepEqual(told, ['live', 'one', 'seven', 'eight', 'nine', 'gap expired', 'live again']);
  await again(context);
  assert.equal(wish()['resume-after'], 'a-9-b');
});

test('where nothing is missing, what came before a lost connection comes once; after a reload, too', async (context) => {
  const kept = storage();
  const first = await asked(context, { storage: kept });
  await receipt();
  message('one', CURSOR);
  await again(context);
  message('two', 'a-2-b');
  await again(context);
  assert.equal(wish()['resume-after'], CURSOR);
  await receipt({ resume: 'exact', missed: '3' }); // before its messages
  assert.deepEqual(first.told.slice(-2), ['missed more', 'live again'], 'it is not known yet how many are new');
  for (const [body, cursor] of [['two', 'a-2-b'], ['three', 'a-3-b']]) message(body, cursor);
  await again(context);
  message('four', 'a-4-b');
  await close(first.client);
  context.mock.timers.reset();
  const { told } = await asked(context, { storage: kept });
  assert.deepEqual(first.told.slice(-2), ['three', 'four']);
  assert.equal(wish()['resume-after'], 'a-3-b');
  for (const [body, cursor] of [['four', 'a-4-b'], ['five', 'a-5-b']]) message(body, cursor);
  await receipt({ resume: 'exact', missed: '2' });
  assert.deepEqual(told, ['five', 'missed 1', 'live']);
});

test('what came last may be missing itself: then nothing is held back behind the gap', async (context) => {
  const { told } = await asked(context, true);
  await receipt();
  message('one', CURSOR);
  await again(context);
  message('two', 'a-2-b');
  await again(context);
  message('nine', 'a-9-b');
  await receipt({ resume: 'gap', reason: 'expired', missed: '0' });
  message('ten', 'a-10-b');
  assert.deepEqual(told, ['live', 'one', 'two', 'gap expired', 'nine', 'live again', 'ten']);
  await again(context);
  assert.equal(wish()['resume-after'], 'a-10-b');
});

test('a message is rather given twice than never', async (context) => {
  for (const [name, headers, messages] of [
    ['a number', { resume: 'exact', missed: '2' }, 2],
    ['more', { resume: 'exact', missed: 'more' }, 10_000],
    ['a server without journals', {}, 1],
  ]) {
    await context.test(name, async (context) => {
      const { told } = await asked(context, true);
      await receipt();
      message('one', CURSOR);
      await again(context);
      message('two', 'a-2-b');
      await again(context);
      const { length } = told;
      await receipt(headers);
      for (let n = 1; n <= messages; n += 1) message(`x ${n}`, `x-${n}`); // two does not come again, for whatever reason
      assert.equal(told.length, length + 2 + messages);
    });
  }
});

test('a gap ends the subscription that wishes it so, and no other', async (context) => {
  const { client, told } = await asked(context, { gap: 'fail' });
  await receipt();
  message('one', CURSOR);
  await again(context);
  assert.deepEqual(wish(), { 'resume-after': CURSOR, 'resume-gap': 'fail' });
  FakeSocket.last.refuse('resume-gap', '1s', { frame: FakeSocket.last.sent.at(-1), close: 1013, reason: 'expired' });
  await settled();
  assert.deepEqual(told, ['live', 'one', 'problem resume-gap expired']);
  await comesBack(context);
  assert.equal(client.state, 'connected');
  assert.deepEqual(FakeSocket.last.frames('SUBSCRIBE'), []);
});

/** `stays`: the connection outlives the ERROR (auth.soft_deny). */
for (const stays of [false, true]) {
  for (const [code, reconnect, reason] of [['foreign-cursor', 'no', 'foreign'], ['no-journal', 'no', 'no-journal'], ['resume-gap', '1s', 'ahead']]) {
    test(`after ${code} it begins anew${stays ? ' on the same connection' : ''}`, async (context) => {
      const { told } = await asked(context, true);
      await receipt();
      message('one', CURSOR);
      await again(context);
      const frame = FakeSocket.last.sent.at(-1);
      const headers = { frame, ...(code === 'resume-gap' && { reason }) };
      if (stays) FakeSocket.last.deny(code, reconnect, headers);
      else FakeSocket.last.refuse(code, reconnect, headers);
      await settled();
      if (!stays) await comesBack(context);
      assert.deepEqual(wish(), {});
      assert.deepEqual(told, ['live', 'one'], 'what is published between here and the RECEIPT would be missed');
      await receipt();
      assert.deepEqual(told, ['live', 'one', `gap ${reason}`, 'live again']);
    });
  }
}

for (const stays of [false, true]) {
  for (const [code, reconnect, reason] of [['no-journal', 'no', 'no-journal'], ['resume-gap', '1s', 'expired']]) {
    test(`where history is refused with ${code}, the gap is told, and it goes on${stays ? ' on the same connection' : ''}`, async (context) => {
      const { told, subscribing } = await asked(context, { begin: { last: 50 } });
      const headers = { frame: FakeSocket.last.sent.at(-1), ...(code === 'resume-gap' && { reason }) };
      if (stays) FakeSocket.last.deny(code, reconnect, headers);
      else FakeSocket.last.refuse(code, reconnect, headers);
      await settled();
      if (!stays) await comesBack(context);
      assert.deepEqual(wish(), {});
      await receipt();
      await subscribing;
      message('one', CURSOR);
      assert.deepEqual(told, [`gap ${reason}`, 'live', 'one']);
      await again(context);
      assert.equal(wish()['resume-after'], CURSOR);
    });
  }
}

test('history of a server without journals is a gap each time, and asked for once', async (context) => {
  const { told } = await asked(context, { begin: { since: '2h' } });
  FakeSocket.last.refuse('no-journal', 'no', { frame: FakeSocket.last.sent.at(-1) });
  await comesBack(context);
  await receipt();
  await again(context);
  assert.deepEqual(wish(), {});
  await receipt();
  assert.deepEqual(told, ['gap no-journal', 'live', 'gap no-journal', 'live again']);
});

test('history that is refused ends the subscription where the gap is to, or the wish cannot be read', async (context) => {
  for (const [code, reconnect, reason] of [['resume-gap', '1s', 'expired'], ['invalid-header', 'no']]) {
    await context.test(code, async (context) => {
      const { told, subscribing } = await asked(context, { gap: 'fail', begin: { since: 'nonsense' } });
      FakeSocket.last.deny(code, reconnect, { frame: FakeSocket.last.sent.at(-1), ...(reason && { reason }) });
      await assert.rejects(subscribing, { code });
      assert.deepEqual(told, [['problem', code, reason].join(' ').trim()]);
    });
  }
});

test('a gap that a refusal told is not forgotten when the connection is lost again before it is live', async (context) => {
  const { told } = await asked(context, true);
  await receipt();
  message('one', CURSOR);
  await again(context);
  FakeSocket.last.refuse('foreign-cursor', 'no', { frame: FakeSocket.last.sent.at(-1) });
  await comesBack(context);
  message('nine', 'b-9-b');
  await again(context);
  assert.equal(wish()['resume-after'], 'b-9-b');
  await receipt({ resume: 'exact', missed: '0' });
  assert.deepEqual(told, ['live', 'one', 'nine', 'gap foreign', 'live again']);
  await again(context);
  await receipt({ resume: 'exact', missed: '0' });
  assert.deepEqual(told.slice(-2), ['missed 0', 'live again']);
});

test('nor when the page is reloaded', async (context) => {
  const kept = storage({ mine: JSON.stringify({ cursor: CURSOR, at: 5 }) });
  const first = await asked(context, { storage: kept, key: 'mine' });
  FakeSocket.last.deny('foreign-cursor', 'no', { frame: FakeSocket.last.sent.at(-1) });
  await settled();
  message('nine', 'b-9-b');
  assert.deepEqual(first.told, ['nine']);
  await close(first.client);
  context.mock.timers.reset();
  const { told } = await asked(context, { storage: kept, key: 'mine' });
  assert.equal(wish()['resume-after'], CURSOR);
  FakeSocket.last.deny('foreign-cursor', 'no', { frame: FakeSocket.last.sent.at(-1) });
  await settled();
  await receipt({ cursor: 'b-9-b' });
  assert.deepEqual(told, ['gap foreign', 'live']);
  assert.equal(JSON.parse(kept.getItem('mine')).cursor, 'b-9-b');
});

test('a gap in the middle of catching up ends the connection, and is told on the next one', async (context) => {
  const { told } = await asked(context, true);
  await receipt();
  message('one', CURSOR);
  await again(context);
  await receipt({ resume: 'exact', missed: 'more' });
  FakeSocket.last.refuse('resume-gap', '1s', { close: 1013, reason: 'expired' });
  await comesBack(context);
  assert.equal(wish()['resume-after'], CURSOR);
  await receipt({ resume: 'gap', reason: 'expired', missed: '0' });
  assert.deepEqual(told.slice(-2), ['gap expired', 'live again']);
});

test('a server without journals is told as a gap each time', async (context) => {
  const { told } = await asked(context, true);
  await receipt();
  message('one');
  await again(context);
  assert.deepEqual(wish(), { since: '50s' });
  await receipt();
  await again(context);
  assert.deepEqual(wish(), {}, 'it is not asked for what it does not have');
  await receipt();
  assert.deepEqual(told, ['live', 'one', 'gap no-journal', 'live again', 'gap no-journal', 'live again']);
  message('two', CURSOR); // it has one now
  await again(context);
  assert.equal(wish()['resume-after'], CURSOR);
});

test('a reload comes back behind what was stored', async (context) => {
  const kept = storage();
  const first = await asked(context, { storage: kept });
  await receipt();
  message('one', CURSOR);
  assert.deepEqual([...kept.all.keys()], [`stentor-cursor alice ${FEED}`]);
  await close(first.client);
  context.mock.timers.reset();
  const { told } = await asked(context, { storage: kept });
  assert.equal(wish()['resume-after'], CURSOR);
  await receipt({ resume: 'exact', missed: '0' });
  assert.deepEqual(told, ['missed 0', 'live']);
});

test('a message that the application did not get to its end comes again', async (context) => {
  const kept = storage();
  const { client } = await asked(context, true);
  await receipt();
  let seen;
  client.subscribe('/exchange/feed/two', () => { seen = [...kept.all.values()]; }, { resume: { storage: kept } });
  await settled();
  await receipt();
  const before = [...kept.all.values()];
  message('one', CURSOR);
  assert.deepEqual(seen, before);
  assert.match([...kept.all.values()][0], /5b8d59a4-17/);
});

test('a cursor that was kept before keys named the virtual host is read', async (context) => {
  const former = `stentor-cursor alice ${FEED}`;
  const kept = storage({ [former]: JSON.stringify({ cursor: CURSOR, at: 5 }) });
  const { client } = await asked(context, { storage: kept }, { host: 'shop' });
  assert.equal(wish()['resume-after'], CURSOR);
  await receipt({ resume: 'exact', missed: '0' });
  message('one', 'a-2-b');
  assert.equal(JSON.parse(kept.all.get(`stentor-cursor shop alice ${FEED}`)).cursor, 'a-2-b');
  await close(client);
  context.mock.timers.reset();
  await asked(context, { storage: kept }, { host: 'shop' });
  assert.equal(wish()['resume-after'], 'a-2-b', 'the new one counts');
});

test('a key that the page chose is the only one', async (context) => {
  const kept = storage({ [`stentor-cursor alice ${FEED}`]: JSON.stringify({ cursor: CURSOR }) });
  await asked(context, { storage: kept, key: 'mine' }, { host: 'shop' });
  assert.deepEqual(wish(), {});
});

test('users, virtual hosts and destinations have cursors of their own', async (context) => {
  const key = `stentor-cursor shop alice ${FEED}`;
  const kept = storage({ [key]: JSON.stringify({ cursor: CURSOR }) });
  for (const other of [{ host: 'shop', login: 'bob' }, { host: 'games' }, {}]) {
    await asked(context, { storage: kept }, other);
    assert.deepEqual(wish(), {});
    context.mock.timers.reset();
  }
  await asked(context, { storage: kept, key }, { login: null });
  assert.equal(wish()['resume-after'], CURSOR);
});

test('what another wrote into the storage harms nothing', async (context) => {
  for (const text of ['', '{', 'null', '7', '[]', '{"cursor":7,"at":"x"}', '{"cursor":"a\\nb:c"}', `{"cursor":"${'x'.repeat(300)}"}`]) {
    const { client, told } = await asked(context, { storage: storage({ mine: text }), key: 'mine' });
    assert.deepEqual(wish(), {}, text);
    await receipt();
    assert.equal(told.at(-1), 'live', text);
    await close(client);
    context.mock.timers.reset();
  }
});

test('a cursor that the server calls none is not sent again', async (context) => {
  const kept = storage({ mine: JSON.stringify({ cursor: 'nonsense', at: 5 }) });
  const { told } = await asked(context, { storage: kept, key: 'mine' });
  assert.equal(wish()['resume-after'], 'nonsense');
  FakeSocket.last.refuse('invalid-header', 'no', { frame: FakeSocket.last.sent.at(-1) });
  await settled();
  assert.deepEqual(told, ['problem invalid-header']);
  assert.deepEqual(JSON.parse(kept.all.get('mine')), {});
});

test('a storage that fails is told once, and the session catches up all the same', async (context) => {
  const full = { getItem: () => null, setItem: () => { throw new Error('full'); } };
  const { told } = await asked(context, { storage: full });
  await receipt();
  message('one', CURSOR);
  assert.deepEqual(told, ['problem no-storage', 'live', 'one']);
  await again(context);
  assert.equal(wish()['resume-after'], CURSOR);
});

test('a storage that fails for a time is used again, and each such time is told once', async (context) => {
  const kept = storage();
  let isFull = false;
  const some = { ...kept, setItem: (key, text) => { if (isFull) throw new Error('full'); kept.setItem(key, text); } };
  const { told } = await asked(context, { storage: some, key: 'mine' });
  await receipt();
  for (const [body, full] of [['one', true], ['two', true], ['three', false], ['four', true]]) {
    isFull = full;
    message(body, `a-${body}-b`);
  }
  const problem = 'problem no-storage';
  assert.deepEqual(told, ['live', 'one', problem, 'two', 'three', 'four', problem]);
  assert.equal(JSON.parse(kept.getItem('mine')).cursor, 'a-three-b');
});

test('a storage that cannot be read at first is read again before the SUBSCRIBE', async (context) => {
  const kept = storage({ mine: JSON.stringify({ cursor: CURSOR }) });
  let reads = 0;
  const locked = { ...kept, getItem: (key) => { reads += 1; if (reads === 1) throw new Error('locked'); return kept.getItem(key); } };
  await asked(context, { storage: locked, key: 'mine' });
  assert.equal(wish()['resume-after'], CURSOR);
});

test('what cannot be read in a storage is told, and written over', async (context) => {
  const kept = storage({ mine: '{' });
  const { told } = await asked(context, { storage: kept, key: 'mine' });
  await receipt();
  message('one', CURSOR);
  assert.deepEqual(told, ['problem no-storage', 'live', 'one']);
  assert.equal(JSON.parse(kept.getItem('mine')).cursor, CURSOR);
});

test('two subscriptions have places of their own', async (context) => {
  const { client } = await asked(context, true);
  await receipt();
  message('one', CURSOR);
  client.subscribe('/exchange/feed/two', () => {}, { resume: true });
  await settled();
  await receipt();
  message('two', 'a-2-b');
  await again(context);
  assert.deepEqual(FakeSocket.last.frames('SUBSCRIBE').map(({ headers }) => headers['resume-after']), [CURSOR, 'a-2-b']);
});

test('two live subscriptions do not keep their places under one key', async (context) => {
  const kept = storage();
  const { client, told } = await asked(context, { storage: kept });
  await receipt();
  message('one', CURSOR);
  const other = (resume, options) => client.subscribe(FEED, () => {}, { resume, ...options });
  for (const wish of [{ storage: kept }, { storage: { ...kept } }]) await assert.rejects(other(wish), (error) => error instanceof TypeError && /resume\.key/.test(error.message));
  assert.equal(FakeSocket.last.frames('SUBSCRIBE').length, 1);
  assert.deepEqual(told, ['live', 'one']);
  const end = new AbortController();
  for (const wish of [true, { storage: kept, key: 'mine' }]) { // in memory, or by a name of its own
    const subscribing = other(wish, { signal: end.signal });
    await settled();
    await receipt();
    await subscribing;
  }
  await assert.rejects(other({ storage: kept, key: 'mine' }), TypeError);
  end.abort();
  other({ storage: kept, key: 'mine' });
  await settled();
  FakeSocket.last.confirm(FakeSocket.last.frames('UNSUBSCRIBE').at(-1));
  await settled();
  assert.equal(FakeSocket.last.frames('SUBSCRIBE').length, 4, 'the key is free again');
});

test('wishes that cannot be are mistakes', async (context) => {
  const { client } = await asked(context, true);
  for (const [options, words] of [
    [{ resume: true, headers: { ack: 'client' } }, /no header ack/],
    [{ resume: true, headers: { durable: 'true' } }, /no header durable/],
    [{ resume: { gap: 'ignore' } }, /resume.gap/],
    [{ resume: { begin: { first: true } } }, /resume.begin has last or since/],
    [{ resume: true, headers: { conflate: 'latest' } }, /no header conflate/],
  ]) await assert.rejects(client.subscribe(FEED, () => {}, options), words);
  const nobody = new StentorClient({ Stomp: Client, url: 'ws://test/ws' });
  await assert.rejects(nobody.subscribe(FEED, () => {}, { resume: { storage: storage() } }), /resume.key/);
});
