// The hook in Node of examples/auth-hook: whatever one request is, the next one is answered.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const hook = fileURLToPath(new URL('../../examples/auth-hook/hook.mjs', import.meta.url));
let process, port;

before(async () => {
  process = spawn('node', [hook, '0'], { stdio: ['ignore', 'pipe', 'ignore'] });
  const [line] = await once(createInterface(process.stdout), 'line');
  port = Number(line.match(/:(\d+)\//)[1]);
});
after(() => process.kill());

/** Writes bytes to the hook, and resolves to what it answers; `cut` leaves without waiting for it. */
function send(text, cut = false) {
  return new Promise((done) => {
    let answer = '';
    const socket = connect(port, '127.0.0.1', () => (cut ? socket.write(text, () => socket.destroy()) : socket.end(text)));
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
