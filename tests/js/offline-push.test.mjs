// The worker's parts of examples/offline-push, against a stub of an application and of a push service.
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { createECDH, createHmac, createPublicKey, randomBytes, verify } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

const require = createRequire(import.meta.url);
const ece = require('http_ece');
const webPush = require('web-push');

// As `npm install` would leave it.
const folder = mkdtempSync(join(tmpdir(), 'stentor-offline-push-'));
cpSync(fileURLToPath(new URL('../../examples/offline-push', import.meta.url)), folder, { recursive: true });
symlinkSync(fileURLToPath(new URL('node_modules', import.meta.url)), join(folder, 'node_modules'));
const load = (file) => import(pathToFileURL(join(folder, file)));
const { Devices } = await load('devices.mjs');
const { Refused, persist } = await load('persist.mjs');
const { Recent } = await load('recent.mjs');
const { Webhook } = await load('webhook.mjs');
const { WebPush } = await load('web-push.mjs');
after(() => rmSync(folder, { recursive: true }));

/** A server that keeps what it gets, and answers as `answer` says. */
async function serve(create, answer) {
  const got = [];
  const server = create(async (request, response) => {
    const parts = [];
    for await (const part of request) {
      parts.push(part);
    }
    const one = { path: request.url, headers: request.headers, body: Buffer.concat(parts) };
    got.push(one);
    response.statusCode = answer(one);
    response.end();
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  after(() => server.close());
  return { got, port: server.address().port };
}

test('a webhook is signed', async () => {
  let status = 200;
  const { got, port } = await serve(http.createServer, () => status);
  const webhook = new Webhook(`http://127.0.0.1:${port}/push`, 'secret');
  assert.equal(await webhook.push({ user: 'alice', body: 'hello' }), 1);
  const [{ headers, body }] = got;
  const [, seconds, signature] = headers['stentor-signature'].match(/^t=(\d+),v1=([0-9a-f]{64})$/);
  assert.ok(Math.abs(Date.now() / 1000 - seconds) < 60);
  const expected = createHmac('sha256', 'secret').update(`${seconds}.${body}`).digest('hex');
  assert.equal(signature, expected);
  assert.deepEqual(JSON.parse(body), { user: 'alice', body: 'hello' });
  status = 503;
  await assert.rejects(webhook.push({}), /answered 503/);
  assert.throws(() => new Webhook('http://127.0.0.1/', ''), /WEBHOOK_SECRET/);
});

test('a receiver that is away for minutes gets the message when it is back', async () => {
  let status = 503;
  const { got, port } = await serve(http.createServer, () => status);
  const webhook = new Webhook(`http://127.0.0.1:${port}/push`, 'secret');
  const pauses = [];
  // Nobody waits: the time is that of the pauses.
  const pausing = async (pause) => {
    pauses.push(pause);
    if (pauses.length === 15) {
      status = 200;
    }
  };
  assert.equal(await persist(() => webhook.push({ user: 'alice' }), () => {}, pausing), 1);
  assert.equal(got.length, 16);
  assert.deepEqual(pauses.slice(0, 3), [200, 400, 800]);
  assert.deepEqual([pauses.at(-1), Math.max(...pauses)], [60_000, 60_000]);
});

test('no message is kept for as long as RabbitMQ would close the channel over it', async () => {
  let time = 0;
  const away = async () => {
    time += 5_000; // the longest that an attempt takes
    throw new Error('away');
  };
  const failed = persist(away, () => {}, async (pause) => { time += pause; });
  await assert.rejects(failed, (error) => !(error instanceof Refused));
  assert.ok(time > 10 * 60_000 && time < 15 * 60_000, `${time}`);
});

test('an answer about the message is for good, one about the receiver is not', async () => {
  let status;
  const { got, port } = await serve(http.createServer, () => status);
  const webhook = new Webhook(`http://127.0.0.1:${port}/push`, 'secret');
  for (status of [400, 413, 422]) {
    await assert.rejects(persist(() => webhook.push({}), assert.fail), Refused);
  }
  assert.equal(got.length, 3);
  for (status of [401, 404, 429, 500, 503]) {
    await assert.rejects(webhook.push({}), (error) => !(error instanceof Refused));
  }
});

test('the worker drops a message for an answer about it, and for nothing else', async () => {
  const answers = { m1: [413], m2: [503, 200], m3: [200] };
  const { port } = await serve(http.createServer, ({ body }) => answers[JSON.parse(body).id].shift());
  const place = mkdtempSync(join(tmpdir(), 'stentor-offline-worker-'));
  after(() => rmSync(place, { recursive: true }));
  for (const file of ['worker.mjs', 'webhook.mjs', 'persist.mjs', 'recent.mjs', 'package.json']) {
    cpSync(join(folder, file), join(place, file));
  }
  mkdirSync(join(place, 'node_modules/amqplib'), { recursive: true });
  // RabbitMQ gives three messages, the last one without any header, and prints what becomes of each.
  writeFileSync(join(place, 'node_modules/amqplib/index.js'), `
    const said = [];
    const note = (text) => said.push(text) === 3 && (console.log('said ' + said.sort().join(', ')), process.exit());
    const channel = {
      ack: ({ properties }) => note(properties.messageId + ' ack'),
      nack: ({ properties }, all, again) => note(properties.messageId + ' nack ' + again),
      async consume(queue, take) {
        for (const id of ['m1', 'm2', 'm3']) {
          const headers = id === 'm3' ? undefined : { 'x-offline-user': 'alice' };
          take({ properties: { messageId: id, headers }, content: Buffer.from('hello') });
        }
      },
      on() {}, async assertExchange() {}, async assertQueue() {}, async bindQueue() {}, async prefetch() {},
    };
    exports.connect = async () => ({ on() {}, createChannel: async () => channel });`);
  const env = { ...process.env, WEBHOOK_URL: `http://127.0.0.1:${port}/`, WEBHOOK_SECRET: 'secret' };
  const { stdout } = await promisify(execFile)('node', ['worker.mjs'], { cwd: place, env });
  assert.match(stdout, /^given up: alice m1: the webhook answered 413$/m);
  assert.match(stdout, /^said m1 nack false, m2 ack, m3 ack$/m);
});

test('the last texts are remembered', () => {
  const recent = new Recent(2);
  for (const text of ['a', 'b', 'a', 'c']) {
    recent.add(text);
  }
  assert.deepEqual(['a', 'b', 'c'].map((text) => recent.has(text)), [true, false, true]);
});

/** A browser: its keys, and what it decrypts. */
function browser(endpoint) {
  const ecdh = createECDH('prime256v1');
  ecdh.generateKeys();
  const auth = randomBytes(16);
  const keys = { p256dh: ecdh.getPublicKey('base64url'), auth: auth.toString('base64url') };
  const decrypt = (body) => ece.decrypt(body, { version: 'aes128gcm', privateKey: ecdh, authSecret: auth.toString('base64url') });
  return { subscription: { endpoint, keys }, decrypt };
}

test('a device has one subscription, and an endpoint is one device\'s', async () => {
  const file = join(folder, 'registry.json');
  const devices = await Devices.read(file);
  const [first, second] = ['https://push/1', 'https://push/2'].map((endpoint) => ({ endpoint }));
  await devices.register('alice', 'phone', first);
  await devices.register('alice', 'phone', second);
  assert.deepEqual(devices.of('alice'), [['phone', second]]);
  // Bob logs in on the same browser, under whichever name.
  await devices.register('bob', 'tablet', second);
  assert.deepEqual(devices.of('alice'), []);
  const again = await Devices.read(file);
  assert.deepEqual(again.of('bob'), [['tablet', second]]);
  await again.forget('bob', 'tablet');
  assert.deepEqual(JSON.parse(readFileSync(file)), {});
});

test('devices that go at the same time leave a whole file', async () => {
  const file = join(folder, 'together.json');
  const devices = await Devices.read(file);
  for (const device of ['a', 'b', 'c']) {
    await devices.register('alice', device, { endpoint: `https://push/${device}` });
  }
  const outcomes = await Promise.allSettled(['a', 'b'].map((device) => devices.forget('alice', device)));
  assert.deepEqual(outcomes.map(({ status }) => status), ['fulfilled', 'fulfilled']);
  assert.deepEqual(JSON.parse(readFileSync(file)), { alice: { c: { endpoint: 'https://push/c' } } });
});

const vapidKeys = webPush.generateVAPIDKeys();
const vapid = { subject: 'mailto:ops@example.com', ...vapidKeys };

/** What a push service checks (RFC 8292): the token's signature, audience and end. */
function checkVapid({ headers }, audience) {
  const [, token, key] = headers.authorization.match(/^vapid t=([^,]+), ?k=(.+)$/);
  assert.equal(key, vapid.publicKey);
  const point = Buffer.from(key, 'base64url');
  const jwk = { kty: 'EC', crv: 'P-256', x: point.subarray(1, 33).toString('base64url'), y: point.subarray(33).toString('base64url') };
  const publicKey = createPublicKey({ key: jwk, format: 'jwk' });
  const [head, claims, signature] = token.split('.');
  const signed = Buffer.from(`${head}.${claims}`);
  const options = { key: publicKey, dsaEncoding: 'ieee-p1363' };
  assert.ok(verify('sha256', signed, options, Buffer.from(signature, 'base64url')));
  const { aud, exp, sub } = JSON.parse(Buffer.from(claims, 'base64url'));
  assert.equal(aud, audience);
  assert.equal(sub, vapid.subject);
  assert.ok(exp > Date.now() / 1000 && exp < Date.now() / 1000 + 24 * 3600 + 1);
}

let tls;
before(() => {
  const [key, cert] = ['key.pem', 'cert.pem'].map((file) => join(folder, file));
  const name = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'];
  const args = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', '-keyout', key, '-out', cert, ...name];
  execFileSync('openssl', args, { stdio: 'ignore' });
  tls = { key: readFileSync(key), cert: readFileSync(cert) };
  https.globalAgent.options.ca = tls.cert;
});

test('every device gets a message once, and those that are gone are forgotten', async () => {
  const answers = { '/phone': 503, '/tablet': 201, '/old': 410 };
  const { got, port } = await serve((handler) => https.createServer(tls, handler), ({ path }) => answers[path]);
  const origin = `https://127.0.0.1:${port}`;
  const browsers = Object.fromEntries(Object.keys(answers).map((path) => [path, browser(origin + path)]));
  const devices = await Devices.read(join(folder, 'devices.json'));
  for (const path of Object.keys(answers)) {
    await devices.register('alice', path.slice(1), browsers[path].subscription);
  }
  const webPush = new WebPush(devices, vapid);
  const message = { id: 'm1', user: 'alice', key: 'user_alice', reason: 'nobody', body: 'hello' };
  await assert.rejects(webPush.push(message), /phone answered 503/);
  answers['/phone'] = 201;
  assert.equal(await webPush.push(message), 2);
  const times = (path) => got.filter((one) => one.path === path).length;
  assert.deepEqual(Object.keys(answers).map(times), [2, 1, 1]);
  assert.deepEqual(devices.of('alice').map(([device]) => device), ['phone', 'tablet']);
  for (const one of got) {
    checkVapid(one, origin);
    assert.equal(one.headers['content-encoding'], 'aes128gcm');
    assert.deepEqual(JSON.parse(browsers[one.path].decrypt(one.body)), message);
  }
  assert.equal(await webPush.push({ ...message, user: 'nobody' }), 0);
});

test('a device for which a message is wrong keeps it from no other, and does not have it tried again', async () => {
  const answers = { '/phone': 413, '/tablet': 503 };
  const { got, port } = await serve((handler) => https.createServer(tls, handler), ({ path }) => answers[path]);
  const devices = await Devices.read(join(folder, 'wrong.json'));
  for (const path of Object.keys(answers)) {
    await devices.register('alice', path.slice(1), browser(`https://127.0.0.1:${port}${path}`).subscription);
  }
  const webPush = new WebPush(devices, vapid);
  const message = { id: 'm1', user: 'alice', body: 'hello' };
  // The tablet may have it later.
  await assert.rejects(webPush.push(message), (error) => !(error instanceof Refused) && /tablet answered 503/.test(error.message));
  answers['/tablet'] = 201;
  await assert.rejects(webPush.push(message), (error) => error instanceof Refused && /phone answered 413/.test(error.message));
  assert.equal(got.filter(({ path }) => path === '/tablet').length, 2);
  await devices.register('bob', 'phone', { endpoint: 'https://127.0.0.1:1/', keys: { p256dh: 'short', auth: 'short' } });
  await assert.rejects(webPush.push({ ...message, user: 'bob' }), Refused);
});
