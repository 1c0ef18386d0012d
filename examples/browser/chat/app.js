// The chat's page: who is logged in, which room is open, and all buttons. chat.js has the chat itself.
import { Chat } from './chat.js';
import { avatar, showMembers, showMessages, showRooms, typingWords } from './view.js';

const wanted = new URLSearchParams(location.search);
const element = (id) => document.getElementById(id);
const shell = element('shell');
const isWide = matchMedia('(min-width: 720px)');

let chat;
let open; // the room that is shown
const stale = new Set(); // rooms that are to be drawn anew
let shown; // the messages on the screen

// ---- logging in ----

for (const name of ['Alice', 'Bob', 'Carol']) {
  const button = document.createElement('button');
  button.type = 'button';
  button.append(avatar(name.toLowerCase(), name), name);
  button.addEventListener('click', () => {
    const address = new URL(location.href);
    address.searchParams.set('user', name.toLowerCase());
    location.href = address; // each tab is somebody
  });
  element('users').append(button);
}

async function begin(user) {
  chat = new Chat({
    url: wanted.get('url') ?? 'ws://127.0.0.1:15674/ws',
    host: wanted.get('host') ?? '/',
    backend: wanted.get('backend') ?? 'http://127.0.0.1:8000',
    user,
    passcode: wanted.get('passcode') ?? `demo-${user}`,
    onChange: draw,
    onState: say,
  });
  try {
    await chat.open();
  } catch ({ status }) {
    element('login').hidden = false;
    element('login-problem').textContent = status === 401
      ? `${user} is not known here.`
      : 'The chat’s backend or Stentor is away. Start both, and choose a name again.';
    return;
  }
  shell.hidden = false;
  element('me-name').textContent = chat.me.name;
  element('me-avatar').replaceWith(Object.assign(avatar(chat.me.id, chat.me.name), { id: 'me-avatar' }));
  document.title = `${chat.me.name} – Chat`;
  const first = chat.rooms.get(location.hash.slice(1)) ?? chat.rooms.values().next().value;
  if (isWide.matches || location.hash) enter(first);
  else open = first;
  draw(open);
}

// ---- the connection ----

const WORDS = { connecting: 'connecting …', connected: 'online', waiting: 'offline', ended: 'ended', refused: 'refused', closed: 'closed' };

function say(state, { problem } = {}) {
  element('state').dataset.state = state;
  element('state').textContent = WORDS[state] ?? state;
  const words = {
    connecting: 'Connecting …',
    waiting: 'No connection. What is said meanwhile comes when it is back.',
    ended: problem && `The connection has ended: ${problem.message}. ${problem.detail}`,
    refused: problem && `${problem.message}. ${problem.detail}`,
  }[state];
  element('connection').hidden = words === undefined;
  element('connection').textContent = words ?? '';
  if (open) draw(open);
}

// ---- the rooms ----

function enter(room) {
  open = room;
  history.replaceState(null, '', `#${room.id}`);
  show('room');
  element('title').textContent = room.name;
  element('topic').textContent = room.topic;
  element('text').value = room.draft ?? '';
  fit();
  room.isFollowed = true;
  draw(room);
  if (isWide.matches) element('text').focus();
}

/** On a phone one pane is shown; on a wide screen, the members may come beside the room. */
function show(pane) {
  shell.dataset.pane = pane;
  element('to-people').setAttribute('aria-expanded', String(pane === 'people'));
}

element('to-rooms').addEventListener('click', () => show('rooms'));
element('to-people').addEventListener('click', () => show(shell.dataset.pane === 'people' ? 'room' : 'people'));
element('close-people').addEventListener('click', () => show('room'));
addEventListener('keydown', ({ key }) => key === 'Escape' && shell.dataset.pane === 'people' && show('room'));

// ---- on the screen ----

/** Once a frame is enough, however many messages come. */
function draw(room) {
  if (stale.size === 0) setTimeout(drawAll, 16);
  stale.add(room);
}

function drawAll() {
  const rooms = [...stale];
  stale.clear();
  if (shell.hidden || !open) return;
  const isSeen = shell.dataset.pane !== 'rooms' || isWide.matches;
  if (isSeen && !document.hidden && open.isFollowed !== false) open.unread = 0;
  showRooms(element('rooms'), chat, open, isSeen, enter);
  const elsewhere = [...chat.rooms.values()].reduce((sum, { unread }) => sum + unread, 0);
  element('elsewhere').hidden = elsewhere === 0;
  element('elsewhere').textContent = elsewhere;
  if (!rooms.includes(open)) return;
  const scroller = element('scroller');
  // Elements that stay keep what somebody selects in them.
  const looks = JSON.stringify([open.id, open.isLive, open.messages, [...open.pending.values()], [...open.members.values()].map(({ name }) => name)]);
  if (looks !== shown) {
    shown = looks;
    showMessages(element('messages'), chat, open, {
      again: (id) => chat.sendAgain(open, id),
      forget: (id) => chat.forget(open, id),
    });
  }
  if (open.isFollowed !== false) scroller.scrollTop = scroller.scrollHeight;
  element('to-newest').hidden = open.isFollowed !== false || open.unread === 0;
  element('typing').textContent = typingWords(open);
  element('typing').classList.toggle('is-on', open.typing.size > 0);
  const members = [...open.members.values()];
  element('here').textContent = `${members.filter(({ status }) => status !== 'offline').length} of ${members.length} here`;
  element('faces').replaceChildren(...members.map(({ id, name, status }) => avatar(id, name, status)));
  showMembers(element('members'), chat, open, (user, isMuted) => chat.mute(open, user, isMuted).catch(() => {}));
  element('muted').hidden = !chat.isMuted(open);
  element('muted').textContent = `You are muted in ${open.name}: you can read, and not write.`;
}

element('scroller').addEventListener('scroll', ({ target }) => {
  if (!open) return;
  open.isFollowed = target.scrollHeight - target.scrollTop - target.clientHeight < 80;
  if (open.isFollowed && open.unread > 0) draw(open);
}, { passive: true });
// A notice or a long text makes it smaller.
new ResizeObserver(([{ target }]) => {
  if (open?.isFollowed !== false) target.scrollTop = target.scrollHeight;
}).observe(element('scroller'));
element('to-newest').addEventListener('click', () => {
  open.isFollowed = true;
  draw(open);
});
document.addEventListener('visibilitychange', () => open && draw(open));

// ---- writing ----

/** As high as its text. */
function fit() {
  const { style } = element('text');
  style.height = 'auto';
  style.height = `${element('text').scrollHeight + 2}px`;
}

element('text').addEventListener('input', ({ target }) => {
  open.draft = target.value;
  fit();
  if (target.value.trim()) chat.type(open);
});
element('text').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  element('composer').requestSubmit();
});
element('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = element('text').value.trim();
  if (!text) return;
  open.draft = '';
  element('text').value = '';
  fit();
  open.isFollowed = true;
  chat.send(open, text);
  element('text').focus();
});

if (wanted.get('user')) await begin(wanted.get('user'));
else element('login').hidden = false;
