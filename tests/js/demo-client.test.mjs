// The demo page's STOMP library as it is served, and the page's look at frames. Its client is clients/js.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';

const page = '../../src/demo/page';
const { FrameImpl, Parser } = globalThis.StompJs = createRequire(import.meta.url)(`${page}/vendor/stomp.umd.min.js`);
const { shownSocket } = await import(`${page}/frames.js`);

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

// ---- the look at frames ----

test('frames are seen where they cross the socket, whole, and without the passcode', () => {
  globalThis.WebSocket = class extends EventTarget {
    sent = [];
    send(data) { this.sent.push(data); }
  };
  const seen = [];
  const socket = shownSocket('ws://test/ws', ['v12.stomp'], (direction, frame) => seen.push([direction, frame]));
  const connect = encodeFrame('CONNECT', { login: 'alice', passcode: 'se:cret' });
  for (const half of [connect.slice(0, 20), connect.slice(20)]) socket.send(half);
  assert.deepEqual(socket.sent.join(''), connect, 'the server gets what was sent');
  const arrival = new Event('message');
  arrival.data = encodeFrame('MESSAGE', { subscription: 'a', b: 'c' }, 'Zoë');
  socket.dispatchEvent(arrival);
  assert.deepEqual(seen.map(([direction, { command }]) => `${direction} ${command}`), ['out CONNECT', 'in MESSAGE']);
  assert.deepEqual(Object.entries(seen[0][1].headers), [['login', 'alice'], ['passcode', '••••••']]);
  assert.equal(seen[1][1].body, 'Zoë');
});
