// The worker's parts of examples/offline-push, against a stub of an application and of a push service.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createECDH, createHmac, createPublicKey, randomBytes, verify } from 'node:crypto';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

const require = createRequire(import.meta.url);
const ece = require('http_ece');
const webPush = require('web-push');

// As `npm install` would leave it.
const folder = mkdtempSync(join(tmpdir(), 'stentor-offline-push-'));
cpSync(fileURLToPath(new URL('../../examples/offline-push', import.meta.url)), folder, { recursive: true });
symlinkSync(fileURLToPath(new URL('node_modules', import.meta.url)), join(folder, 'node_modules'));
const load = (file) => import(pathToFileURL(join(folder, file)));
const { Devices } = await load('devices.mjs');
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
