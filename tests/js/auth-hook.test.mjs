// The hooks of examples/auth-hook. In Node: whatever one request is, the next one is answered. In
// Python: whose cookie it is.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const processes = [];
const ports = {};

async function start(program, name) {
  const file = fileURLToPath(new URL(`../../examples/auth-hook/${name}`, import.meta.url));
  const process = spawn(program, [file, '0'], { stdio: ['ignore', 'pipe', 'ignore'] });
  processes.push(process);
  const [line] = await once(createInterface(process.stdout), 'line');
  ports[program] = Number(line.match(/:(\d+)\//)[1]);
}

before(() => Promise.all([start('node', 'hook.mjs'), start('python3', 'hook.py')]));
after(() => processes.forEach((process) => process.kill()));

/** Writes bytes to a hook, and resolves to what it answers; `cut` leaves without waiting for it. */
function send(text, cut = false, program = 'node') {
  return new Promise((done) => {
    let answer = '';
    const socket = connect(ports[program], '127.0.0.1', () => (cut ? socket.write(text, () => socket.destroy()) : socket.end(text)));
    socket.setEncoding('utf8').on('data', (data) => { answer += data; });
    socket.on('error', () => {}).on('close', () => done(answer));
  });
}

const post = (path, body, length = Buffer.byteLength(body)) => `POST ${path} HTTP/1.0\r\nContent-Length: ${length}\r\n\r\n${body}`;
const status = (answer) => Number(answer.split(' ')[1]);
const isAllowed = async () => {
  const answer = await send(post('/auth/user', 'username=alice&password=demo-alice'));
  return answer.endsWith('allow customer');
};

for (const [what, text, expected] of [
  ['a batch that is no JSON', post('/auth/batch', 'x'), 400],
  ['a batch without questions', post('/auth/batch', '{}'), 500],
  ['a batch that is nothing', post('/auth/batch', 'null'), 500],
  ['a batch with a question that is none', post('/auth/batch', '{"questions":[null]}'), 500],
  ['a path that is no URL', 'GET // HTTP/1.0\r\n\r\n', 400],
]) {
  test(`${what} ends neither the hook nor others' logins`, async () => {
    assert.equal(status(await send(text)), expected);
    assert.ok(await isAllowed());
  });
}

test('a request that is cut in its body ends neither', async () => {
  await send(post('/auth/user', 'username=al', 100), true);
  assert.ok(await isAllowed());
});

test('a batch has an answer for each question', async () => {
  const alice = { username: 'alice', password: 'demo-alice' };
  const questions = [{ call: 'user', parameters: alice }, { call: 'vhost', parameters: { vhost: '/' } }, { call: 'x', parameters: {} }];
  const answer = await send(post('/auth/batch', JSON.stringify({ questions })));
  assert.equal(status(answer), 200);
  assert.deepEqual(JSON.parse(answer.split('\r\n\r\n')[1]), { answers: ['allow customer', 'allow', 'deny no such question'] });
});

for (const [what, parameters, expected, named] of [
  ['names nobody', 'username=&session_cookie=demo-session', 'allow customer', 'alice'],
  ['names its user', 'username=alice&session_cookie=demo-session', 'allow customer', 'alice'],
  ['names another user', 'username=bob&session_cookie=demo-session', 'deny', undefined],
  ['has another user\'s password', 'username=bob&password=demo-bob&session_cookie=demo-session', 'allow customer', undefined],
  ['has a cookie of nobody', 'username=&session_cookie=x', 'deny', undefined],
]) {
  test(`Python: a client with a cookie that ${what}`, async () => {
    const call = (path, body) => send(post(path, body), false, 'python3');
    const [head, body] = (await call('/auth/user', parameters)).split('\r\n\r\n');
    assert.equal(body, expected);
    assert.equal(head.match(/^x-username: (.*)$/im)?.[1], named);
    const question = { call: 'user', parameters: Object.fromEntries(new URLSearchParams(parameters)) };
    const batch = await call('/auth/batch', JSON.stringify({ questions: [question] }));
    const answer = named ? { answer: expected, headers: { 'x-username': named } } : expected;
    assert.deepEqual(JSON.parse(batch.split('\r\n\r\n')[1]), { answers: [answer] });
  });
}
