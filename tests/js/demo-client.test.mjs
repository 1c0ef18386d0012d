// The demo page's STOMP client: the vendored library, and what the page adds to it. Run: node --test tests/js/
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';

const page = '../../src/demo/page';
const { FrameImpl, Parser } = globalThis.StompJs = createRequire(import.meta.url)(`${page}/vendor/stomp.umd.min.js`);
const { ReconnectingClient } = await import(`${page}/reconnecting.js`);

const bytes = (text) => new TextEncoder().encode(text);

function concat(...parts) {
  const all = parts.map((part) => (typeof part === 'string' ? bytes(part) : part));
  const joined = new Uint8Array(all.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of all) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

function encodeFrame(command, headers = {}, body = '') {
  const content = typeof body === 'string' ? { body } : { binaryBody: body };
  return FrameImpl.marshall({ command, headers, ...content, escapeHeaderValues: true });
}

/** Cuts what it is given into frames, and hands each to `take`. */
const parser = (take) => new Parser((raw) => take(FrameImpl.fromRawFrame(raw, true)), () => {});

function parse(...chunks) {
  const frames = [];
  const cut = parser(({ command, headers, binaryBody }) => frames.push([command, { ...headers }, [...binaryBody]]));
  for (const chunk of chunks) cut.parseChunk(chunk);
  return frames;
}

// One stream with everything that makes cutting hard: CR LF, heart-beats, NUL in a body, multi-byte
// characters, escapes, empty bodies, a body that looks like a frame.
const stream = concat(
  '\n\r\nCONNECTED\r\nversion:1.2\r\nsession:a\\b:c\r\n\r\n\0\n',
  'MESSAGE\nsubscription:sub-1\nk:l1\\nl2\\r\\\\\\c\ncontent-length:7\n\n',
  Uint8Array.of(0, 255, 10, 10, 0, 13, 0),
  '\0\n\n',
  'MESSAGE\ncontent-length:27\n\nERROR\nmessage:fake\n\nx\0\n\n\nü\0',
  'MESSAGE\nname:Zoë 🎺\n\nno length: Zoë 🎺\n\n\0',
  'RECEIPT\nreceipt-id:7\n\n\0\r\n',
);
const expected = [
  ['CONNECTED', { version: '1.2', session: 'a\\b:c' }, []],
  ['MESSAGE', { subscription: 'sub-1', k: 'l1\nl2\r\\:', 'content-length': '7' }, [0, 255, 10, 10, 0, 13, 0]],
  ['MESSAGE', { 'content-length': '27' }, [...bytes('ERROR\nmessage:fake\n\nx\0\n\n\nü')]],
  ['MESSAGE', { name: 'Zoë 🎺' }, [...bytes('no length: Zoë 🎺\n\n')]],
  ['RECEIPT', { 'receipt-id': '7' }, []],
];

test('a stream in one piece', () => {
  assert.deepEqual(parse(stream), expected);
});

test('a stream byte by byte', () => {
  assert.deepEqual(parse(...[...stream].map((byte) => Uint8Array.of(byte))), expected);
});

test('every split into two', () => {
  for (let cut = 0; cut <= stream.length; cut += 1) {
    assert.deepEqual(parse(stream.subarray(0, cut), stream.subarray(cut)), expected, `cut at ${cut}`);
  }
});

test('every split into three', () => {
  for (let a = 0; a <= stream.length; a += 1) {
    for (let b = a; b <= stream.length; b += 1) {
      const pieces = [stream.subarray(0, a), stream.subarray(a, b), stream.subarray(b)];
      assert.deepEqual(parse(...pieces), expected, `cuts at ${a} and ${b}`);
    }
  }
});

test('text, ArrayBuffer and Uint8Array are equal', () => {
  const text = 'MESSAGE\nid:1\n\nZoë\0';
  const once = parse(text);
  assert.equal(once.length, 1);
  assert.deepEqual(parse(bytes(text)), once);
  assert.deepEqual(parse(bytes(text).buffer), once);
});

test('a repeated header keeps its first value', () => {
  const [[, headers]] = parse('MESSAGE\nfoo:1\nfoo:2\nconstructor:y\n\n\0');
  assert.equal(headers.foo, '1');
  assert.equal(headers.constructor, 'y');
});

test('a large body in small pieces', () => {
  const body = new Uint8Array(300_000).map((_, index) => index % 251);
  const whole = encodeFrame('MESSAGE', { id: '1' }, body);
  const frames = [];
  const cut = parser((frame) => frames.push(frame));
  for (let at = 0; at < whole.byteLength; at += 1000) cut.parseChunk(whole.slice(at, at + 1000));
  assert.equal(frames.length, 1);
  assert.deepEqual(frames[0].binaryBody, body);
});

test('frames are written with octets counted and headers escaped', () => {
  assert.equal(
    encodeFrame('SEND', { destination: '/a', note: 'x:y\n' }, 'Zoë'),
    'SEND\ndestination:/a\nnote:x\\cy\\n\ncontent-length:4\n\nZoë\0',
  );
  assert.equal(encodeFrame('CONNECT', { passcode: 'a:b\\c' }), 'CONNECT\npasscode:a:b\\c\n\n\0');
  assert.deepEqual(
    new Uint8Array(encodeFrame('SEND', { a: '1' }, Uint8Array.of(0, 1))),
    concat('SEND\na:1\ncontent-length:2\n\n', Uint8Array.of(0, 1, 0)),
  );
});

test('what is written is read back', () => {
  const headers = { a: 'x:y\n', b: '\\\\' };
  const [[command, read, body]] = parse(encodeFrame('MESSAGE', headers, Uint8Array.of(0, 10, 0)));
  assert.equal(command, 'MESSAGE');
  assert.deepEqual(read, { ...headers, 'content-length': '3' });
  assert.deepEqual(body, [0, 10, 0]);
});

// ---- the client, against a WebSocket that the test plays ----

class FakeSocket {
  static all = [];

  constructor(url, protocols) {
    Object.assign(this, { url, protocols, readyState: 0, sent: [], listeners: [] });
    this.parser = parser((frame) => this.sent.push(frame));
    FakeSocket.all.push(this);
  }

  addEventListener(type, listener) { this.listeners.push([type, listener]); }
  send(data) { this.parser.parseChunk(data); }
  close(reason = '') {
    this.readyState = 3;
    this.onclose({ reason });
  }
  open() {
    this.readyState = 1;
    this.onopen();
  }
  receive(data) {
    for (const [type, listener] of this.listeners) if (type === 'message') listener({ data });
    this.onmessage({ data });
  }
  answer(command, headers, body) { this.receive(encodeFrame(command, headers, body)); }
  /** What a server does: it closes behind an ERROR. */
  refuse(headers, body) {
    this.answer('ERROR', headers, body);
    if (this.readyState === 1) this.close();
  }
  last() { return this.sent.at(-1); }
}
globalThis.WebSocket = FakeSocket;

const settled = () => new Promise((resolve) => { setImmediate(resolve); });

/** Lets the time pass, and what waits for it happen. */
async function pass(context, milliseconds) {
  context.mock.timers.tick(1); // the library waits a millisecond before it has the page wait its pause
  await settled();
  context.mock.timers.tick(milliseconds);
  await settled();
}

async function opened(context, options = {}) {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'] });
  FakeSocket.all = [];
  const states = [];
  const client = new ReconnectingClient({ url: 'ws://test/ws', onState: (state) => states.push(state), ...options });
  client.connect();
  await settled();
  const [socket] = FakeSocket.all;
  socket.open();
  return { client, socket, states };
}

async function connected(context, options = {}) {
  const log = [];
  const onFrame = (direction, frame) => log.push([direction, frame]);
  const all = await opened(context, { login: 'alice', passcode: 'se:cret', onFrame, ...options });
  all.socket.answer('CONNECTED', { version: '1.2', 'heart-beat': '0,0' });
  return { ...all, log };
}

/** The next connection, which has been made meanwhile. */
function reopened() {
  const socket = FakeSocket.all[1];
  socket.open();
  socket.answer('CONNECTED', { version: '1.2' });
  return socket;
}

test('connects, subscribes, delivers, sends, unsubscribes', async (context) => {
  const { client, socket, states, log } = await connected(context);
  assert.deepEqual(socket.protocols, ['v12.stomp']);
  assert.equal(socket.sent[0].headers.passcode, 'se:cret');
  assert.deepEqual(states, ['connecting', 'connected']);
  assert.ok(!log.some(([, frame]) => Object.values(frame.headers).includes('se:cret')), 'the log hides the passcode');

  const messages = [];
  const feed = client.subscribe('/exchange/feed/user_alice', (message) => messages.push(message));
  socket.answer('RECEIPT', { 'receipt-id': socket.last().headers.receipt });
  await feed.ready;
  socket.answer('MESSAGE', { subscription: feed.id, 'message-id': '1', ack: 'a-1', destination: '/x' }, 'hello Zoë');
  assert.deepEqual(messages.map(({ body }) => body), ['hello Zoë']);

  const sending = client.send('/exchange/feed/user_bob', 'hi');
  socket.answer('RECEIPT', { 'receipt-id': socket.last().headers.receipt });
  assert.equal((await sending).command, 'RECEIPT');

  messages[0].ack();
  assert.equal(socket.last().headers.id, 'a-1');
  feed.unsubscribe();
  assert.equal(socket.last().command, 'UNSUBSCRIBE');

  const ending = client.disconnect();
  socket.answer('RECEIPT', { 'receipt-id': socket.last().headers.receipt });
  await ending;
  assert.equal(states.at(-1), 'disconnected');
});

test('a server that closes instead of answering DISCONNECT is not called again', async (context) => {
  const { client, socket, states } = await connected(context);
  const ending = client.disconnect();
  socket.close();
  await ending;
  await pass(context, 60_000);
  assert.deepEqual(states, ['connecting', 'connected', 'disconnected']);
  assert.equal(FakeSocket.all.length, 1);
});

test('after a lost connection it comes back and subscribes again', async (context) => {
  const { client, socket, states } = await connected(context);
  client.subscribe('/exchange/feed/user_alice', () => {});
  const sending = client.send('/x', 'y');
  socket.close();
  await assert.rejects(sending, /lost/);
  assert.equal(states.at(-1), 'waiting');
  await pass(context, 2000);
  const second = reopened();
  assert.equal(second.last().command, 'SUBSCRIBE');
  assert.equal(second.last().headers.destination, '/exchange/feed/user_alice');
});

test('a refused subscription is not asked for again; the granted one is', async (context) => {
  const errors = [];
  const { client, socket } = await connected(context, { onError: (frame) => errors.push(frame.headers.message) });
  const own = client.subscribe('/exchange/feed/user_alice', () => {});
  socket.answer('RECEIPT', { 'receipt-id': socket.last().headers.receipt });
  await own.ready;
  const other = client.subscribe('/exchange/feed/user_bob', () => {});
  socket.refuse({ message: 'access_refused', 'receipt-id': socket.last().headers.receipt }, 'no');
  await assert.rejects(other.ready, /access_refused/);
  assert.deepEqual(errors, ['access_refused']);
  await pass(context, 2000);
  const second = reopened();
  await settled();
  const again = second.sent.filter((frame) => frame.command === 'SUBSCRIBE').map((frame) => frame.headers.destination);
  assert.deepEqual(again, ['/exchange/feed/user_alice']);
});

test('a refused login is final', async (context) => {
  const { states } = await opened(context);
  FakeSocket.all[0].refuse({ message: 'Bad CONNECT' }, 'Access refused');
  await pass(context, 60_000);
  assert.deepEqual(states, ['connecting', 'refused']);
  assert.equal(FakeSocket.all.length, 1);
});

test('a login that the server could not judge is tried again, when it says', async (context) => {
  const { states } = await opened(context);
  FakeSocket.all[0].refuse({ message: 'Bad CONNECT', reconnect: '5s' }, 'Access refused');
  assert.deepEqual(states, ['connecting', 'waiting']);
  await pass(context, 4_900);
  assert.equal(FakeSocket.all.length, 1, 'not before the time that the server says');
  await pass(context, 1_000);
  assert.equal(FakeSocket.all.length, 2);
  FakeSocket.all[1].open();
  FakeSocket.all[1].refuse({ message: 'Bad CONNECT', reconnect: 'no' }, 'Access refused');
  await pass(context, 60_000);
  assert.deepEqual(states.slice(2), ['connecting', 'refused']);
  assert.equal(FakeSocket.all.length, 2);
});

test('a kicked client does not come back', async (context) => {
  const { socket, states } = await connected(context);
  socket.refuse({ message: 'kicked', reconnect: 'no' }, 'not paid');
  await pass(context, 600_000);
  assert.equal(states.at(-1), 'ended');
  assert.equal(FakeSocket.all.length, 1);
});

test('a client comes back with new credentials only when it is given some', async (context) => {
  const { client, socket, states } = await connected(context);
  socket.refuse({ message: 'access_refused', reconnect: 'renew' }, '');
  await pass(context, 600_000);
  assert.equal(states.at(-1), 'ended');
  assert.equal(FakeSocket.all.length, 1);
  client.connect(); // the user has logged in again
  await settled();
  FakeSocket.all[1].open();
  assert.equal(FakeSocket.all[1].sent[0].command, 'CONNECT');
});

test('a subscription for which the broker was away is asked for again', async (context) => {
  const { client, socket } = await connected(context);
  client.subscribe('/exchange/feed/user_alice', () => {});
  socket.refuse({ message: 'broker unavailable', reconnect: '5s', 'receipt-id': socket.last().headers.receipt }, '');
  await settled();
  await pass(context, 6_000);
  const second = reopened();
  assert.equal(second.last().command, 'SUBSCRIBE');
});

test('a refused request does not end the session that refused it', async (context) => {
  const { client, socket, states } = await connected(context);
  const own = client.subscribe('/exchange/feed/user_alice', () => {});
  socket.answer('RECEIPT', { 'receipt-id': socket.last().headers.receipt });
  await own.ready;
  const sending = client.send('/exchange/feed/nobody', 'x');
  socket.refuse({ message: 'access_refused', reconnect: 'no', 'receipt-id': socket.last().headers.receipt }, '');
  await assert.rejects(sending, /access_refused/);
  assert.equal(states.at(-1), 'waiting');
});

test('silence beyond twice the heart-beat is a lost connection', async (context) => {
  const { socket, states } = await opened(context, { heartbeat: [1000, 1000] });
  const pass = (time) => { for (; time > 0; time -= 100) context.mock.timers.tick(100); }; // timers fire one by one
  const writes = [];
  socket.send = (data) => writes.push(data);
  socket.answer('CONNECTED', { version: '1.2', 'heart-beat': '500,3000' }); // we beat every 3 s; they beat every 1 s
  pass(1500);
  assert.equal(states.at(-1), 'connected');
  pass(1000);
  socket.receive('\n');
  pass(1000);
  assert.equal(states.at(-1), 'connected', 'one byte is a sign of life');
  assert.deepEqual(writes, ['\n']);
  pass(1500);
  assert.equal(states.at(-1), 'waiting');
});
