// The chat's own side, in Node, standard library only: node backend.mjs
//
// It knows who is in which room, and who is muted. Stentor asks it (/auth/…, the hook), and the page asks it
// (/chat/…). Messages do not come by here: they go from page to page by Stentor and RabbitMQ.

import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

const {
  PORT = '8000',
  PAGES = 'http://127.0.0.1:8080', // the origin of the page
  VHOST = '/',
  STENTOR_API = 'http://127.0.0.1:15680',
  STENTOR_TOKEN = 'chat-example-0123456789', // stentor.toml has it, too: make your own with `stentor token`
} = process.env;

// ---- who is who: your database ----

const users = new Map([
  ['alice', { name: 'Alice', password: 'demo-alice', moderates: true }],
  ['bob', { name: 'Bob', password: 'demo-bob' }],
  ['carol', { name: 'Carol', password: 'demo-carol' }],
]);
const rooms = new Map([
  ['lobby', { name: 'Lobby', topic: 'Everybody is here', members: ['alice', 'bob', 'carol'], muted: new Set() }],
  ['garden', { name: 'Garden', topic: 'Tomatoes, and the weather', members: ['alice', 'bob', 'carol'], muted: new Set() }],
  ['kitchen', { name: 'Kitchen', topic: 'What we eat on Friday', members: ['alice', 'bob'], muted: new Set() }],
]);

const digest = (text) => createHash('sha256').update(text).digest();
const isPassword = (user, password) => users.has(user) && timingSafeEqual(digest(users.get(user).password), digest(password ?? ''));
const room = (id, user) => (rooms.get(id)?.members.includes(user) ? rooms.get(id) : undefined);

// ---- the hook: Stentor asks ----

const questions = {
  user: ({ username, password }) => (isPassword(username, password) ? 'allow' : 'deny'),
  vhost: ({ vhost }) => (vhost === VHOST ? 'allow' : 'deny'),
  resource: ({ resource, name, permission }) => {
    const allowed = { chat: ['read', 'write'], 'chat.typing': ['read', 'write'], presence: ['read'] };
    return resource === 'exchange' && allowed[name]?.includes(permission) ? 'allow' : 'deny';
  },
  // room.ROOM in `chat`, room.ROOM.USER in `chat.typing`, group.ROOM in `presence`.
  topic({ name, permission, username, routing_key: key }) {
    const [kind, id, who, ...rest] = key.split('.');
    const found = room(id, username);
    if (!found || rest.length > 0 || kind !== (name === 'presence' ? 'group' : 'room')) return 'deny you are not in this room';
    if (permission === 'read') return (who === undefined) === (name !== 'chat.typing') ? 'allow' : 'deny';
    if (name === 'presence' || who !== (name === 'chat.typing' ? username : undefined)) return 'deny';
    return found.muted.has(username) ? `deny you are muted in ${found.name}` : 'allow';
  },
  groups: ({ username }) => JSON.stringify([...rooms].filter(([id]) => room(id, username)).map(([id]) => id)),
};

// ---- the page asks, with the name and the password of its user ----

/** Asks Stentor. */
async function stentor(path, body) {
  const response = await fetch(`${STENTOR_API}/api/v1${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${STENTOR_TOKEN}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`Stentor says ${response.status}: ${await response.text()}`);
  return response.json();
}

/** The rooms of a user, with their members as they are now. */
async function list(user) {
  const present = await stentor('/presence', { users: [...users.keys()] });
  const status = new Map(present.users.map((one) => [one.user, one.status === 'invisible' ? 'offline' : one.status]));
  const member = (room) => (id) => ({ id, name: users.get(id).name, status: status.get(id), isMuted: room.muted.has(id) });
  return {
    me: { id: user, name: users.get(user).name, moderates: users.get(user).moderates === true },
    rooms: [...rooms].filter(([id]) => room(id, user))
      .map(([id, room]) => ({ id, name: room.name, topic: room.topic, members: room.members.map(member(room)) })),
  };
}

/** Mutes a member, or lets it speak again, and says so in the room: a message of nobody's, so nobody can forge it. */
async function mute(by, id, user, isMuted) {
  const found = room(id, user);
  if (!users.get(by).moderates || !room(id, by) || !found) return 403;
  if (isMuted) found.muted.add(user);
  else found.muted.delete(user);
  const notice = { type: isMuted ? 'muted' : 'unmuted', user, by, at: new Date().toISOString() };
  await stentor('/publish', { vhost: VHOST, exchange: 'chat', key: `room.${id}`, body: JSON.stringify(notice), content_type: 'application/json' });
  return 204;
}

async function answer(request, path) {
  const [scheme, text = ''] = (request.headers.authorization ?? '').split(' ');
  const [user, ...password] = Buffer.from(text, 'base64').toString().split(':');
  if (scheme !== 'Basic' || !isPassword(user, password.join(':'))) return [401];
  if (request.method === 'GET' && path.length === 1 && path[0] === 'rooms') return [200, await list(user)];
  const [of, id, what, whom] = path;
  if (path.length === 4 && of === 'rooms' && what === 'muted' && ['PUT', 'DELETE'].includes(request.method)) {
    return [await mute(user, id, whom, request.method === 'PUT')];
  }
  return [404];
}

const cors = {
  'access-control-allow-origin': PAGES,
  'access-control-allow-headers': 'authorization',
  'access-control-allow-methods': 'GET, PUT, DELETE',
  'cache-control': 'no-store',
  vary: 'origin',
};

const server = createServer(async (request, response) => {
  try {
    const url = new URL(request.url, 'http://backend');
    const [part, ...path] = url.pathname.slice(1).split('/').map(decodeURIComponent);
    if (part === 'auth') {
      const asked = Object.assign(Object.create(null), Object.fromEntries(url.searchParams));
      const said = Object.hasOwn(questions, path[0]) ? questions[path[0]](asked) : 'deny no such question';
      response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' }).end(said); // never log asked.password
    } else if (request.method === 'OPTIONS') {
      response.writeHead(204, cors).end();
    } else {
      const [status, body] = part === 'chat' ? await answer(request, path) : [404];
      response.writeHead(status, { ...cors, 'content-type': 'application/json' }).end(body && JSON.stringify(body));
    }
  } catch (error) {
    console.error(error.message);
    response.writeHead(503, cors).end();
  }
});

server.keepAliveTimeout = 120_000; // longer than the gateway's pauses
server.listen(Number(PORT), '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
