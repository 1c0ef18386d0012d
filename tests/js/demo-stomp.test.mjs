// The demo page's STOMP client. Run: node --test tests/js/
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeFrame, FrameParser, StompClient } from '../../src/demo/page/stomp.js';

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

const plain = (frame) => [frame.command, { ...frame.headers }, [...frame.body]];

function parse(...chunks) {
  const parser = new FrameParser();
  return chunks.flatMap((chunk) => parser.push(chunk)).map(plain);
}

// One stream with everything that makes cutting hard: CR LF, heart-beats, NUL in a body, multi-byte
// characters, escapes, empty bodies, a body that looks like a frame.
const stream = concat(
  '\n\r\nCONNECTED\r\nversion:1.2\r\nsession:a\\b:c\r\n\r\n\0\n',
  'MESSAGE\nsubscription:sub-1\nx\\ck:l1\\nl2\\r\\\\\\c\ncontent-length:7\n\n',
  Uint8Array.of(0, 255, 10, 10, 0, 13, 0),
  '\0\n\n',
  'MESSAGE\ncontent-length:27\n\nERROR\nmessage:fake\n\nx\0\n\n\nü\0',
  'MESSAGE\nname:Zoë 🎺\n\nno length: Zoë 🎺\n\n\0',
  'RECEIPT\nreceipt-id:7\n\n\0\r\n',
);
const expected = [
  ['CONNECTED', { version: '1.2', session: 'a\\b:c' }, []],
  ['MESSAGE', { subscription: 'sub-1', 'x:k': 'l1\nl2\r\\:', 'content-length': '7' }, [0, 255, 10, 10, 0, 13, 0]],
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

test('a repeated header keeps its first value, blanks are kept, odd names are safe', () => {
  const [[, headers]] = parse('MESSAGE\nfoo: 1 \nfoo:2\n__proto__:x\nconstructor:y\n\n\0');
  assert.equal(headers.foo, ' 1 ');
  assert.equal(headers.constructor, 'y');
  assert.ok(Object.hasOwn(headers, '__proto__'));
});

test('a large body in small pieces', () => {
  const body = new Uint8Array(300_000).map((_, index) => index % 251);
  const whole = encodeFrame('MESSAGE', { id: '1' }, body);
  const parser = new FrameParser();
  const frames = [];
  for (let at = 0; at < whole.length; at += 1000) frames.push(...parser.push(whole.subarray(at, at + 1000)));
  assert.equal(frames.length, 1);
  assert.deepEqual(frames[0].body, body);
});

test('exactly one CR belongs to a line end', () => {
  const [[, headers]] = parse('MESSAGE\r\na:1\r\r\nb:2\r\n\r\n\0');
  assert.deepEqual(headers, { a: '1\r', b: '2' });
});

test('what cannot be understood is refused', () => {
  assert.throws(() => parse('MESSAGE\na:\\t\n\n\0'), /undefined escape/);
  assert.throws(() => parse('MESSAGE\na:\\\n\n\0'), /undefined escape/);
  assert.throws(() => parse('MESSAGE\nno colon\n\n\0'), /without a colon/);
  assert.throws(() => parse('MESSAGE\ncontent-length:1x\n\na\0'), /not a number/);
  assert.throws(() => parse('MESSAGE\ncontent-length:1\n\nab\0'), /no NUL/);
});

test('frames are written with octets counted and headers escaped', () => {
  assert.equal(
    encodeFrame('SEND', { destination: '/a', note: 'x:y\n', none: undefined }, 'Zoë'),
    'SEND\ndestination:/a\nnote:x\\cy\\n\ncontent-length:4\n\nZoë\0',
  );
  assert.equal(encodeFrame('CONNECT', { passcode: 'a:b\\c' }), 'CONNECT\npasscode:a:b\\c\n\n\0');
  assert.deepEqual(
    encodeFrame('SEND', { a: '1' }, Uint8Array.of(0, 1)),
    concat('SEND\na:1\ncontent-length:2\n\n', Uint8Array.of(0, 1, 0)),
  );
});

test('what is written is read back', () => {
  const headers = { 'a:b': '\\n is not \n', '\r': '\\\\' };
  const [[command, read, body]] = parse(encodeFrame('MESSAGE', headers, Uint8Array.of(0, 10, 0)));
  assert.equal(command, 'MESSAGE');
  assert.deepEqual(read, { ...headers, 'content-length': '3' });
  assert.deepEqual(body, [0, 10, 0]);
});

// ---- the client, against a WebSocket that the test plays ----

class FakeSocket {
  static OPEN = 1;
  static all = [];

  constructor(url, protocols) {
    Object.assign(this, { url, protocols, readyState: 0, sent: [], parser: new FrameParser() });
    FakeSocket.all.push(this);
  }

  send(data) { this.sent.push(...this.parser.push(data)); }
  close() { this.readyState = 3; }
  open() { this.readyState = 1; this.onopen(); }
  answer(command, headers, body) { this.onmessage({ data: encodeFrame(command, headers, body) }); }
  last() { return this.sent.at(-1); }
}
globalThis.WebSocket = FakeSocket;

const settled = () => new Promise((resolve) => { setImmediate(resolve); });

function connected(context, options = {}) {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  FakeSocket.all = [];
  const states = [];
  const log = [];
  const client = new StompClient({
    url: 'ws://test/ws', login: 'alice', passcode: 'se:cret',
    onState: (state) => states.push(state), onFrame: (direction, frame) => log.push([direction, frame]), ...options,
  });
  client.connect();
  const [socket] = FakeSocket.all;
  socket.open();
  socket.answer('CONNECTED', { version: '1.2', 'heart-beat': '0,0' });
  return { client, socket, states, log };
}

test('connects, subscribes, delivers, sends, unsubscribes', async (context) => {
  const { client, socket, states, log } = connected(context);
  assert.deepEqual(socket.protocols, ['v12.stomp']);
  assert.equal(socket.sent[0].headers.passcode, 'se:cret');
  assert.deepEqual(states, ['connecting', 'connected']);
  assert.ok(!log.some(([, frame]) => Object.values(frame.headers).includes('se:cret')), 'the log hides the passcode');

  const received = [];
  const feed = client.subscribe('/exchange/feed/user_alice', (message) => received.push(message.text));
  socket.answer('RECEIPT', { 'receipt-id': socket.last().headers.receipt });
  await feed.ready;
  socket.answer('MESSAGE', { subscription: feed.id, 'message-id': '1', destination: '/x' }, 'hello Zoë');
  assert.deepEqual(received, ['hello Zoë']);

  const sending = client.send('/exchange/feed/user_bob', 'hi');
  socket.answer('RECEIPT', { 'receipt-id': socket.last().headers.receipt });
  assert.equal((await sending).command, 'RECEIPT');

  client.ack({ headers: { ack: 'a-1' } });
  assert.equal(socket.last().headers.id, 'a-1');
  feed.unsubscribe();
  assert.equal(socket.last().command, 'UNSUBSCRIBE');

  const ending = client.disconnect();
  socket.answer('RECEIPT', { 'receipt-id': socket.last().headers.receipt });
  await ending;
  assert.equal(states.at(-1), 'disconnected');
});

test('a server that closes instead of answering DISCONNECT is not called again', async (context) => {
  const { client, socket, states } = connected(context);
  const ending = client.disconnect();
  socket.onclose({ reason: '' });
  await ending;
  context.mock.timers.tick(60_000);
  assert.deepEqual(states, ['connecting', 'connected', 'disconnected']);
  assert.equal(FakeSocket.all.length, 1);
});

test('after a lost connection it comes back and subscribes again', async (context) => {
  const { client, socket, states } = connected(context);
  client.subscribe('/exchange/feed/user_alice', () => {});
  const sending = client.send('/x', 'y');
  socket.onclose({ reason: '' });
  await assert.rejects(sending, /lost/);
  assert.equal(states.at(-1), 'waiting');
  context.mock.timers.tick(2000);
  const second = FakeSocket.all[1];
  second.open();
  second.answer('CONNECTED', { version: '1.2' });
  assert.equal(second.last().command, 'SUBSCRIBE');
  assert.equal(second.last().headers.destination, '/exchange/feed/user_alice');
});

test('a refused subscription is not asked for again; the granted one is', async (context) => {
  const errors = [];
  const { client, socket } = connected(context, { onError: (frame) => errors.push(frame.headers.message) });
  const own = client.subscribe('/exchange/feed/user_alice', () => {});
  socket.answer('RECEIPT', { 'receipt-id': socket.last().headers.receipt });
  await own.ready;
  const other = client.subscribe('/exchange/feed/user_bob', () => {});
  socket.answer('ERROR', { message: 'access_refused', 'receipt-id': socket.last().headers.receipt }, 'no');
  await assert.rejects(other.ready, /access_refused/);
  assert.deepEqual(errors, ['access_refused']);
  context.mock.timers.tick(2000);
  const second = FakeSocket.all[1];
  second.open();
  second.answer('CONNECTED', {});
  await settled();
  const again = second.sent.filter((frame) => frame.command === 'SUBSCRIBE').map((frame) => frame.headers.destination);
  assert.deepEqual(again, ['/exchange/feed/user_alice']);
});

test('a refused login is final', (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  FakeSocket.all = [];
  const states = [];
  const client = new StompClient({ url: 'ws://test/ws', onState: (state) => states.push(state) });
  client.connect();
  FakeSocket.all[0].open();
  FakeSocket.all[0].answer('ERROR', { message: 'Bad CONNECT' }, 'Access refused');
  context.mock.timers.tick(60_000);
  assert.deepEqual(states, ['connecting', 'refused']);
  assert.equal(FakeSocket.all.length, 1);
});

test('a login that the server could not judge is tried again, when it says', (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  FakeSocket.all = [];
  const states = [];
  const client = new StompClient({ url: 'ws://test/ws', onState: (state) => states.push(state) });
  client.connect();
  FakeSocket.all[0].open();
  FakeSocket.all[0].answer('ERROR', { message: 'Bad CONNECT', reconnect: '5s' }, 'Access refused');
  assert.deepEqual(states, ['connecting', 'waiting']);
  context.mock.timers.tick(4_900);
  assert.equal(FakeSocket.all.length, 1, 'not before the time that the server says');
  context.mock.timers.tick(1_000);
  assert.equal(FakeSocket.all.length, 2);
  FakeSocket.all[1].open();
  FakeSocket.all[1].answer('ERROR', { message: 'Bad CONNECT', reconnect: 'no' }, 'Access refused');
  context.mock.timers.tick(60_000);
  assert.deepEqual(states.slice(2), ['connecting', 'refused']);
  assert.equal(FakeSocket.all.length, 2);
});

test('a kicked client does not come back', (context) => {
  const { socket, states } = connected(context);
  socket.answer('ERROR', { message: 'kicked', reconnect: 'no' }, 'not paid');
  context.mock.timers.tick(600_000);
  assert.equal(states.at(-1), 'ended');
  assert.equal(FakeSocket.all.length, 1);
});

test('a client comes back with new credentials only when it is given some', (context) => {
  const { client, socket, states } = connected(context);
  socket.answer('ERROR', { message: 'access_refused', reconnect: 'renew' }, '');
  context.mock.timers.tick(600_000);
  assert.equal(states.at(-1), 'ended');
  assert.equal(FakeSocket.all.length, 1);
  client.connect(); // the user has logged in again
  FakeSocket.all[1].open();
  assert.equal(FakeSocket.all[1].sent[0].command, 'CONNECT');
});

test('a subscription for which the broker was away is asked for again', async (context) => {
  const { client, socket } = connected(context);
  client.subscribe('/exchange/feed/user_alice', () => {});
  socket.answer('ERROR', { message: 'broker unavailable', reconnect: '5s', 'receipt-id': socket.last().headers.receipt }, '');
  await settled();
  context.mock.timers.tick(6_000);
  const second = FakeSocket.all[1];
  second.open();
  second.answer('CONNECTED', {});
  assert.equal(second.last().command, 'SUBSCRIBE');
});

test('a refused request does not end the session that refused it', async (context) => {
  const { client, socket, states } = connected(context);
  const own = client.subscribe('/exchange/feed/user_alice', () => {});
  socket.answer('RECEIPT', { 'receipt-id': socket.last().headers.receipt });
  await own.ready;
  const sending = client.send('/exchange/feed/nobody', 'x');
  socket.answer('ERROR', { message: 'access_refused', reconnect: 'no', 'receipt-id': socket.last().headers.receipt }, '');
  await assert.rejects(sending, /access_refused/);
  assert.equal(states.at(-1), 'waiting');
});

test('silence beyond twice the heart-beat is a lost connection', (context) => {
  context.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  let now = 0;
  context.mock.method(performance, 'now', () => now);
  FakeSocket.all = [];
  const states = [];
  const client = new StompClient({ url: 'ws://test/ws', heartbeat: [1000, 1000], onState: (state) => states.push(state) });
  client.connect();
  const [socket] = FakeSocket.all;
  socket.open();
  const writes = context.mock.method(socket, 'send');
  socket.answer('CONNECTED', { 'heart-beat': '500,3000' }); // we beat every 3 s; they beat every 1 s
  now = 1500;
  context.mock.timers.tick(1500);
  assert.equal(states.at(-1), 'connected');
  now = 2500;
  socket.onmessage({ data: '\n' });
  now = 3500;
  context.mock.timers.tick(2000);
  assert.equal(states.at(-1), 'connected', 'one byte is a sign of life');
  assert.deepEqual(writes.mock.calls.map((call) => call.arguments[0]), ['\n']);
  now = 5000;
  context.mock.timers.tick(1000);
  assert.equal(states.at(-1), 'waiting');
});
