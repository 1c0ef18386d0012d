// clients/js as npm packs it: installed beside @stomp/stompjs, on real sockets; and its types.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { WebSocket } from 'ws';

import { serve } from './stomp-server.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const source = join(here, '../../clients/js');
let folder;
let installed;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'stentor-client-'));
  const packages = join(folder, 'node_modules');
  const listed = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json', '--offline'], { cwd: source, encoding: 'utf8' }));
  const files = listed[0].files.map(({ path }) => path);
  await mkdir(join(packages, '@stomp'), { recursive: true });
  await symlink(join(here, 'node_modules/@stomp/stompjs'), join(packages, '@stomp/stompjs'));
  for (const file of files) await cp(join(source, file), join(packages, 'stentor-client', file));
  const load = (name) => import(pathToFileURL(join(packages, 'stentor-client', name)));
  installed = { files, module: await load('index.js'), subpath: await load('client.js') };
});
after(() => rm(folder, { recursive: true }));

const client = (options) => new installed.module.StentorClient({
  webSocketFactory: (protocols) => new WebSocket(options.url, protocols), ...options,
});

test('the package has what it needs, and nothing else', () => {
  const expected = ['README.md', 'README.zh.md', 'advice.js', 'client.js', 'connection.js', 'delta.js', 'index.d.ts', 'index.js', 'pace.js', 'package.json', 'progress.js', 'subscriptions.js', 'tokens.js'];
  assert.deepEqual([...installed.files].sort(), expected);
});

test('it asks for a @stomp/stompjs that tells of heart-beats, which are signs of life', async () => {
  const { peerDependencies } = JSON.parse(await readFile(join(source, 'package.json'), 'utf8'));
  const [, major, minor] = /^\^(\d+)\.(\d+)\./.exec(peerDependencies['@stomp/stompjs']);
  assert.equal(major, '7');
  assert.ok(Number(minor) >= 2, 'onHeartbeatReceived and onHeartbeatLost came with 7.2.0');
});

test('a day on a real socket', async () => {
  const server = await serve();
  const alice = client({ url: server.url, headers: { login: 'alice', passcode: 'x' } });
  await alice.connect();
  const feed = await alice.subscribe('/exchange/feed/user_alice', () => {});
  await alice.publish('/exchange/feed/user_bob', 'hello');
  alice.wake();
  for (const socket of server.server.clients) socket.terminate();
  await server.until((frames) => frames.filter(({ command }) => command === 'SUBSCRIBE').length === 2);
  await feed.unsubscribe();
  await alice.close();
  const commands = server.frames.map(({ command }) => command);
  assert.deepEqual(commands.slice(-3), ['SUBSCRIBE', 'UNSUBSCRIBE', 'DISCONNECT']);
  server.close();
});

test('a session whose token lives for two seconds goes on, and on', async () => {
  const server = await serve({ lifetime: 2 });
  let count = 0;
  const alice = client({ url: server.url, getToken: () => `token-${count += 1}` });
  await alice.connect();
  await server.until((frames) => frames.filter(({ headers }) => headers.destination === '/auth/renew').length === 3);
  const logins = server.frames.filter(({ command }) => command === 'CONNECT');
  assert.deepEqual(logins.map(({ headers }) => headers.passcode), ['token-1']);
  assert.equal(server.frames.at(-1).headers.token, 'token-4');
  await alice.close();
  server.close();
});

test('a session that cannot be renewed ends, and the next one begins at once', async () => {
  const server = await serve({ lifetime: 1 });
  const reasons = [];
  const getToken = ({ reason }) => {
    reasons.push(reason);
    if (reason === 'renew') throw new Error('only logins');
    return 'token';
  };
  const alice = client({ url: server.url, getToken });
  const feed = alice.subscribe('/exchange/feed/user_alice', () => {});
  await alice.connect();
  await feed;
  await server.until((frames) => frames.filter(({ command }) => command === 'SUBSCRIBE').length === 2);
  assert.ok(reasons.includes('refused'), `${reasons}`);
  await alice.close();
  server.close();
});

test('a server that is not there is waited for', async () => {
  const server = await serve();
  const { port } = server.server.address();
  server.close();
  const alice = client({ url: `ws://127.0.0.1:${port}/ws` });
  const states = [];
  const bob = client({ url: `ws://127.0.0.1:${port}/ws`, onState: (state) => { states.push(state); if (state === 'waiting') bob.close(); } });
  await assert.rejects(bob.connect(), { code: 'closed' });
  assert.deepEqual(states.slice(0, 2), ['connecting', 'waiting']);
  const opening = alice.connect();
  await alice.close();
  await assert.rejects(opening, { code: 'closed' });
});

test('close in the moment in which the socket is made: its error is nobody\'s', async () => {
  const server = await serve();
  for (let turns = 0; turns < 8; turns += 1) {
    const alice = client({ url: server.url });
    const opening = alice.connect();
    for (let turn = 0; turn < turns; turn += 1) await null;
    await alice.close();
    await assert.rejects(opening, { code: 'closed' });
  }
  server.close();
});

test('the types are right: TypeScript’s compiler accepts an application, and refuses its mistakes', async () => {
  execFileSync(process.execPath, [join(here, 'node_modules/typescript/bin/tsc'), '--project', join(here, 'types')], { stdio: 'inherit' });
});

test('the types name what there is', async () => {
  const types = await readFile(join(source, 'index.d.ts'), 'utf8');
  const [, body] = types.split('export class StentorClient {');
  const declared = [...body.matchAll(/^ {2}(?:readonly )?(\w+)[(:]/gm)].map(([, name]) => name);
  const actual = Object.getOwnPropertyNames(installed.subpath.StentorClient.prototype);
  assert.deepEqual(declared.sort(), actual.sort());
  const exported = [...types.matchAll(/^export class (\w+)/gm)].map(([, name]) => name).sort();
  for (const module of [installed.module, installed.subpath]) assert.deepEqual(Object.keys(module).sort(), exported);
  assert.equal(installed.module.Problem, installed.subpath.Problem);
});
