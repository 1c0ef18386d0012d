// What docs/clients.md and the examples make of ERRORs: those that end the session, and those that do not.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { Client } from '@stomp/stompjs';
import { WebSocket } from 'ws';

import { encodeFrame } from './fake-socket.mjs';
import { serve } from './stomp-server.mjs';

Object.assign(globalThis, { WebSocket });

const path = (file) => fileURLToPath(new URL(`../../${file}`, import.meta.url));
// As `npm install` would leave it.
const folder = mkdtempSync(join(tmpdir(), 'stentor-reconnecting-'));
after(() => rmSync(folder, { recursive: true }));
writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
symlinkSync(path('tests/js/node_modules'), join(folder, 'node_modules'));
copyFileSync(path('examples/node/subscribe.mjs'), join(folder, 'subscribe.mjs'));
copyFileSync(path('examples/browser/main.js'), join(folder, 'main.js'));

// `stentor ctl unsubscribe`; a room's end. The connection serves other subscriptions.
const ENDED = { message: 'unsubscribed', 'error-code': 'subscription-ended', reconnect: 'no' };
// With `[auth] soft_deny` the connection stays open.
const DENIED = { message: 'access_refused', 'error-code': 'permission-denied', reconnect: 'no', 'receipt-id': 'r' };
const KICKED = { message: 'kicked', 'error-code': 'kicked', reconnect: 'no' };

const sleep = (milliseconds) => new Promise((go) => { setTimeout(go, milliseconds); });

/** A server, and the client that `start(url)` has made there: it is connected, and subscribed. */
async function connected(context, start) {
  const server = await serve();
  context.after(server.close);
  const count = (command) => server.frames.filter((frame) => frame.command === command).length;
  const say = (...frame) => { for (const socket of server.server.clients) socket.send(encodeFrame(...frame)); };
  const client = await start(server.url, context);
  context.after(() => client.child?.kill());
  context.after(() => client.client?.deactivate({ force: true }));
  await server.until(() => count('SUBSCRIBE') === 1);
  const { id } = server.frames.find(({ command }) => command === 'SUBSCRIBE').headers;
  return { ...server, client, count, say, subscription: id };
}

/** The snippet, with two rooms. */
function snippet(url, context, freshToken = async () => 'token') {
  const [source] = readFileSync(path('docs/clients.md'), 'utf8').match(/\nlet wish = [^]*?\n}\);\n/);
  const client = new Function('Client', 'freshToken', `${source}; return client;`)(Client, freshToken);
  const { onConnect, onStompError } = client;
  const got = [];
  client.configure({
    brokerURL: url,
    onConnect: (frame) => {
      onConnect(frame);
      client.subscribe('/exchange/room/kitchen', ({ body }) => got.push(body));
    },
    onStompError: (frame) => {
      onStompError(frame);
      got.push(frame.headers['error-code']);
    },
  });
  client.activate();
  return { client, got };
}

/** The page, in a document that has no looks. */
async function page(url, context) {
  const { Client: Made } = await import(pathToFileURL(join(folder, 'node_modules/@stomp/stompjs/esm6/index.js')));
  const { activate } = Made.prototype;
  let client;
  context.mock.method(Made.prototype, 'activate', function () {
    client = this;
    activate.call(this);
  });
  const state = { textContent: '' };
  const messages = [];
  globalThis.location = { search: `?url=${encodeURIComponent(url)}` };
  globalThis.document = {
    getElementById: (id) => (id === 'state' ? state : { prepend: (item) => messages.push(item.textContent) }),
    createElement: () => ({}),
  };
  await import(`${pathToFileURL(join(folder, 'main.js'))}?${url}`);
  return { client, state, got: messages };
}

/** The page of 2014, its socket a WebSocket: it has two connections. */
function classic(url, context) {
  const elements = new Map();
  const got = [];
  const element = (id) => {
    if (!elements.has(id)) {
      elements.set(id, {
        value: id === 'url' ? url : '', dataset: {}, addEventListener() {}, querySelectorAll: () => [], querySelector: (part) => element(`${id} ${part}`),
        set textContent(text) { if (id.startsWith('listener')) got.push(text); },
      });
    }
    return elements.get(id);
  };
  class SockJS extends WebSocket {
    constructor() {
      super(url, ['v12.stomp']);
    }
  }
  const document = { getElementById: element, querySelectorAll: () => [], querySelector: element };
  const window = { SockJS };
  new Function('window', readFileSync(path('examples/browser/vendor/stomp.min.js'), 'utf8')).call(window, window);
  const names = { window, document, SockJS, Stomp: window.Stomp, location: { protocol: 'http:', search: `?url=${encodeURIComponent(url)}` } };
  const run = new Function(...Object.keys(names), `${readFileSync(path('examples/browser/classic.js'), 'utf8')}; return [listener, sender];`);
  const panes = run(...Object.values(names));
  context.after(() => { for (const pane of panes) pane.leave(); });
  return { got };
}

/** The program. */
function program(url, context, options = []) {
  const child = spawn(process.execPath, [...options, 'subscribe.mjs', 'alice'], { cwd: folder, env: { ...process.env, STENTOR_WS: url } });
  const got = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => got.push(...String(data).trim().split('\n')));
  return { child, got };
}

for (const [name, start, hears] of [
  ['the snippet of docs/clients.md', snippet, 'hello'],
  ['examples/browser/main.js', page, 'hello'],
  ['examples/node/subscribe.mjs', program, 'backend: hello'],
]) {
  test(`${name}: one subscription's end, and a denial, leave the connection to the others`, async (context) => {
    const { client, say, subscription, count, frames, server, until } = await connected(context, start);
    const [socket] = server.clients;
    say('ERROR', { ...ENDED, subscription: 'another' });
    say('ERROR', DENIED);
    say('MESSAGE', { subscription, 'message-id': '1', destination: '/exchange/room/kitchen' }, 'hello');
    const isOver = () => count('DISCONNECT') > 0 || socket.readyState !== WebSocket.OPEN;
    await until(() => client.got.includes(hears) || isOver());
    // A DISCONNECT would have come before this answer.
    const pong = once(socket, 'pong');
    socket.ping();
    if (!isOver()) await pong;
    assert.ok(!isOver(), JSON.stringify(frames));
  });

  test(`${name}: an ERROR behind which the server closes is the end`, async (context) => {
    const { client, say, count, server } = await connected(context, start);
    const exit = client.child && once(client.child, 'exit');
    const [socket] = server.clients;
    const closed = once(socket, 'close');
    say('ERROR', KICKED);
    socket.close(1008);
    await closed;
    if (client.child) {
      const [code] = await exit;
      assert.equal(code, 1, client.got.join('\n'));
    } else {
      await sleep(50); // it would come back after 1 ms, and a random part of a second
      assert.equal(client.client.active, false);
      assert.match(client.state?.textContent ?? 'ended', /^ended/);
    }
    assert.equal(count('CONNECT'), 1);
  });
}

for (const [name, start, hears] of [
  ['the snippet of docs/clients.md', snippet, 'permission-denied'],
  ['examples/browser/classic.js', classic, 'access_refused: '],
]) {
  test(`${name}: a connection that is lost long after a denial is made again`, async (context) => {
    context.mock.timers.enable({ apis: ['Date'], now: Date.now() });
    context.mock.method(Math, 'random', () => 0);
    const { client, say, count, server, until } = await connected(context, start);
    say('ERROR', DENIED);
    await until(() => client.got.includes(hears));
    context.mock.timers.tick(60_000);
    for (const socket of server.clients) socket.terminate();
    await until(() => count('SUBSCRIBE') === 2);
  });
}

// Where a client waits for seconds, each takes 10 ms.
const HURRY = `
  const set = globalThis.setTimeout;
  globalThis.setTimeout = (go, delay, ...values) => set(go, delay < 1_000 ? delay : delay / 100, ...values);
`;

for (const [name, start] of [
  ['the snippet of docs/clients.md', snippet],
  ['examples/browser/main.js', page],
  ['examples/node/subscribe.mjs', (url, context) => program(url, context, ['--import', `data:text/javascript,${encodeURIComponent(HURRY)}`])],
]) {
  test(`${name}: a server that answers no login is given up, and tried again`, async (context) => {
    const { setTimeout: set } = globalThis;
    context.after(() => { globalThis.setTimeout = set; });
    new Function(HURRY)();
    context.mock.method(Math, 'random', () => 0);
    const { url, until, close } = await serve({ isMute: true });
    context.after(close);
    const { client, child } = await start(url, context);
    context.after(() => (child ? child.kill() : client.deactivate({ force: true })));
    await until((frames) => frames.length === 2);
  });
}

test('a token that cannot be fetched is asked for again', async (context) => {
  context.mock.method(Math, 'random', () => 0);
  const answers = [true, false, false, true];
  const freshToken = async () => {
    if (!answers.shift()) throw new TypeError('fetch failed');
    return 'token';
  };
  const { count, server, until } = await connected(context, (url) => snippet(url, context, freshToken));
  for (const socket of server.clients) socket.terminate();
  await until(() => count('CONNECT') === 2);
  assert.deepEqual(answers, []);
});

test('a client that is deactivated asks for no further token', async (context) => {
  context.mock.method(Math, 'random', () => 0);
  let asked = 0;
  let client;
  const freshToken = async () => {
    asked += 1;
    if (asked === 1) return 'token';
    client.deactivate();
    throw new TypeError('fetch failed');
  };
  const { client: made, server, until } = await connected(context, (url) => snippet(url, context, freshToken));
  client = made.client;
  for (const socket of server.clients) socket.terminate();
  await until(() => asked === 2);
  await sleep(50);
  assert.equal(asked, 2);
});

test('docs/catching-up.md: a gap whose RECEIPT is lost is told at the next connection', () => {
  const [source] = readFileSync(path('docs/catching-up.md'), 'utf8').match(/\nlet cursor; [^]*?\n};\n/);
  const asked = [];
  const rendered = [];
  let loads = 0;
  let take;
  let confirm;
  const client = {
    subscribe: (destination, show, headers) => { take = (body, cursor) => show({ body, headers: { cursor } }); asked.push(headers['resume-after']); },
    watchForReceipt: (receipt, done) => { confirm = (headers) => done({ headers }); },
  };
  new Function('client', 'render', 'loadTheStateAnew', source)(client, (body) => rendered.push(body), () => { loads += 1; });
  client.onConnect();
  confirm({ cursor: 'c0' });
  client.onConnect();
  take('1', 'c1');
  confirm({ resume: 'exact' });
  take('2', 'c2');
  client.onConnect();
  take('9', 'c9'); // 3 to 8 are not kept any more, but the connection is lost before that is said
  client.onConnect();
  assert.deepEqual(asked, [undefined, 'c0', 'c2', 'c2']);
  take('9', 'c9');
  confirm({ resume: 'gap' });
  client.onConnect();
  assert.deepEqual([asked.at(-1), loads, rendered[2]], ['c9', 1, '9']);
});
