// The class of docs/sending-once.md beside a server that refuses messages.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { Client, FrameImpl, Parser } from '@stomp/stompjs';
import { WebSocket, WebSocketServer } from 'ws';

import { encodeFrame } from './fake-socket.mjs';

Object.assign(globalThis, { WebSocket });

const page = readFileSync(new URL('../../docs/sending-once.md', import.meta.url), 'utf8');
const [source] = page.match(/const UNCERTAIN = [^]*?class Outbox {[^]*?\n}\n/);
const Outbox = new Function(`${source}; return Outbox;`)();

const advised = readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8').match(/\nlet wish = [^]*?\n}\);\n/)[0];

/** Takes numbers in their order, and answers messages whose body is in `errors` by that ERROR: the first login by that of CONNECT. */
async function serve(errors) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => 'v12.stomp' });
  await new Promise((listening) => { server.once('listening', listening); });
  const taken = [];
  const refused = [];
  const logins = [];
  server.on('connection', (socket) => {
    const say = (...frame) => socket.send(encodeFrame(...frame));
    const end = (headers) => {
      say('ERROR', headers);
      socket.close();
    };
    let isOver = false;
    const parser = new Parser((raw) => {
      const { command, headers, body } = FrameImpl.fromRawFrame(raw, true);
      if (isOver) return;
      if (command === 'CONNECT') logins.push({ headers, at: Date.now() });
      if (command === 'CONNECT' && errors.CONNECT) {
        isOver = true;
        end(errors.CONNECT);
        delete errors.CONNECT;
      } else if (command === 'CONNECT') {
        say('CONNECTED', { version: '1.2', 'heart-beat': '0,0', 'last-client-seq': String(taken.length) });
      } else if (command === 'SEND') {
        const n = Number(headers['client-seq']);
        const error = errors[body] ?? (n > taken.length + 1 ? { 'error-code': 'sequence-gap', reconnect: '1s' } : undefined);
        if (error) {
          isOver = true;
          refused.push([n, body]);
          end({ message: error['error-code'], ...error, 'receipt-id': headers.receipt });
        } else {
          if (n > taken.length) taken.push(body);
          say('RECEIPT', { 'receipt-id': headers.receipt });
        }
      } else if (command === 'DISCONNECT') {
        socket.close();
      }
    }, () => {});
    socket.on('message', (data) => parser.parseChunk(String(data)));
  });
  const close = () => {
    for (const socket of server.clients) socket.terminate();
    server.close();
  };
  const say = (...frame) => { for (const socket of server.clients) socket.send(encodeFrame(...frame)); };
  return { url: `ws://127.0.0.1:${server.address().port}/ws`, taken, refused, logins, say, close };
}

async function eventually(what, condition) {
  for (let turn = 0; turn < 300 && !condition(); turn += 1) await new Promise((go) => { setTimeout(go, 10); });
  assert.ok(condition(), what);
}

const plain = (url) => new Client({ brokerURL: url, reconnectDelay: 10 });

/** The client of docs/clients.md. */
function advisedClient(url) {
  const client = new Function('Client', 'freshToken', `${advised}; return client;`)(Client, async () => 'token');
  client.configure({ brokerURL: url });
  return client;
}

async function sending(errors, bodies, run, make = plain) {
  const server = await serve(errors);
  const client = make(server.url);
  const outbox = new Outbox(client, 'node');
  const dropped = [];
  outbox.onRefused = ({ body }, { headers }) => dropped.push([body, headers['error-code']]);
  client.activate();
  for (const body of bodies) outbox.send('/exchange/feed/k', body);
  try {
    await run({ server, client, outbox, dropped });
  } finally {
    await client.deactivate();
    server.close();
  }
}

test('a message that is refused for good is dropped, and those behind it are sent', async () => {
  const errors = { secret: { 'error-code': 'permission-denied', reconnect: 'no' } };
  await sending(errors, ['1', 'secret', '2', '3'], async ({ server, outbox, dropped }) => {
    await eventually('all others are sent', () => outbox.kept.length === 0);
    assert.deepEqual(server.taken, ['1', '2', '3']);
    assert.deepEqual(server.refused, [[2, 'secret']]);
    assert.deepEqual(dropped, [['secret', 'permission-denied']]);
  });
});

test('a message whose fate is unknown, or that may go later, is sent again by its number', async () => {
  for (const code of ['not-published', 'broker-unavailable', 'permission-unavailable']) {
    const errors = { early: { 'error-code': code, reconnect: '5s' } };
    await sending(errors, ['1', 'early', '2'], async ({ server, outbox, dropped }) => {
      await eventually('it is sent twice', () => server.refused.length >= 2);
      delete errors.early;
      await eventually('all are sent', () => outbox.kept.length === 0);
      assert.deepEqual(server.taken, ['1', 'early', '2']);
      assert.ok(server.refused.every(([n]) => n === 2), JSON.stringify(server.refused));
      assert.deepEqual(dropped, []);
    });
  }
});

test('the end of a subscription, or its denial, is none of its business', async () => {
  const errors = {};
  await sending(errors, ['1'], async ({ server, client, outbox }) => {
    await eventually('it is sent', () => outbox.kept.length === 0);
    server.say('ERROR', { message: 'unsubscribed', 'error-code': 'subscription-ended', reconnect: 'no', subscription: 'sub-7' });
    server.say('ERROR', { message: 'access_refused', 'error-code': 'permission-denied', reconnect: 'no', 'receipt-id': 'of a subscription' });
    outbox.send('/exchange/feed/k', '2');
    await eventually('the next one is sent', () => server.taken.length === 2 || !client.active);
    assert.ok(client.active);
    assert.deepEqual(server.taken, ['1', '2']);
  });
});

test('a message that may have been taken, and is refused for now, stops the client', async () => {
  const errors = { lost: { 'error-code': 'not-found', reconnect: 'no' } };
  await sending(errors, ['1', 'lost', '2'], async ({ server, client, outbox }) => {
    await eventually('the client stops', () => !client.active);
    assert.deepEqual(server.refused, [[2, 'lost']]);
    assert.deepEqual(outbox.kept.map(({ body }) => body), ['lost', '2']);
    // Somebody has made the exchange.
    delete errors.lost;
    await client.deactivate();
    client.activate();
    await eventually('all are sent', () => outbox.kept.length === 0);
    assert.deepEqual(server.taken, ['1', 'lost', '2']);
  });
});

test('the client of docs/clients.md heeds the advice, logs in and subscribes beside the outbox', async (context) => {
  context.mock.method(Math, 'random', () => 0);
  const errors = { CONNECT: { 'error-code': 'login-unavailable', reconnect: '1s' } };
  let connects = 0;
  const make = (url) => {
    const client = advisedClient(url);
    const { onConnect } = client;
    client.configure({ onConnect: (frame) => { connects += 1; onConnect(frame); } });
    return client;
  };
  await sending(errors, ['1'], async ({ server, outbox }) => {
    await eventually('all are sent', () => outbox.kept.length === 0);
    const [first, second] = server.logins;
    assert.ok(second.at - first.at >= 990, `again after ${second.at - first.at} ms`);
    assert.deepEqual(server.logins.map(({ headers }) => [headers.login, headers.passcode, headers['device-id']]), Array(2).fill(['alice', 'token', 'node']));
    assert.equal(connects, 1);
  }, make);
});

test('the client of docs/clients.md goes on behind a message that is refused for good', async (context) => {
  context.mock.method(Math, 'random', () => 0);
  const errors = { secret: { 'error-code': 'permission-denied', reconnect: 'no' } };
  await sending(errors, ['1', 'secret', '2'], async ({ server, client, outbox, dropped }) => {
    await eventually('all others are sent', () => outbox.kept.length === 0 || !client.active);
    assert.deepEqual(server.taken, ['1', '2']);
    assert.deepEqual(dropped, [['secret', 'permission-denied']]);
  }, advisedClient);
});

test('a message that no frame may be long enough for is not kept', async () => {
  await sending({}, [], async ({ outbox }) => {
    outbox.maxBytes = 10;
    assert.throws(() => outbox.send('/exchange/feed/k', 'ääääää'), RangeError);
    assert.deepEqual(outbox.kept, []);
  });
});
