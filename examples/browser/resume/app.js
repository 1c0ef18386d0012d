// Numbered messages that survive a lost network and a reload, with stentor-client.
import { StentorClient } from 'stentor-client';

import { Ledger } from './ledger.js';

const wanted = new URLSearchParams(location.search);
const user = wanted.get('user') ?? 'alice';
const destination = `/exchange/feed/user_${user}`;
const element = (id) => document.getElementById(id);

// What this tab has seen. It is kept in the same storage as the client's cursor, in the same turn: a
// reload finds both of before a message, or both of after it.
const ledger = new Ledger(sessionStorage, `ledger ${destination}`);

const client = new StentorClient({
  url: wanted.get('url') ?? 'ws://127.0.0.1:15674/ws',
  // In an application: `getToken`, with the session token that your auth hook knows.
  headers: { login: user, passcode: wanted.get('passcode') ?? `demo-${user}`, host: wanted.get('host') ?? '/' },
  webSocketFactory: (protocols) => connect(protocols),
  onState(name, { problem }) {
    if (name === 'connecting') say('connecting', 'connecting …');
    if (name === 'waiting') say('waiting', isOffline ? 'offline' : 'connection lost');
    if (name === 'ended') say('ended', `ended: ${problem.message}. ${problem.detail}`);
    if (name === 'connected') return;
    [isLive, early, due] = [false, 0, 0];
    tell('');
  },
});

// ---- messages ----

// Those that were missed come before the subscription is live, or are due after it.
let isLive = false;
let early = 0;
let due = 0;
let isFirst = ledger.isEmpty; // a page that was just opened missed nothing

function take({ body }) {
  const { run, n } = read(body);
  if (n === undefined) return;
  const isLate = isLive ? due > 0 : !isFirst;
  if (isLive) due -= 1;
  else early += 1;
  ledger.take(run, n, isLate);
  draw();
}

/** Another program may publish to this user, too. */
function read(body) {
  try {
    return JSON.parse(body) ?? {};
  } catch {
    return {};
  }
}

client.subscribe(destination, take, {
  resume: { storage: sessionStorage },
  onResumed({ missed }) {
    due = missed === 'more' ? 0 : missed - early;
    tell(missed === 'more' ? 'Back. Many messages are coming, none is missing.' : `Back. ${missed} came meanwhile, none is missing.`);
  },
  onGap(reason) {
    // An application loads its state here. This page has none but the numbers.
    ledger.gap();
    tell(`Messages are missing, says the server: ${reason}.`);
  },
  onLive() {
    isLive = true;
    isFirst = false;
    say('live', 'live');
  },
  onProblem: ({ next, message, detail }) => next === 'stop' && say('ended', `ended: ${message}. ${detail}`),
});

// ---- a network to play with ----

let isOffline = false;
let socket;

/** A socket that never opens, as where there is no network. */
class NoNetwork {
  readyState = 0;

  constructor() {
    setTimeout(() => {
      this.readyState = 3;
      this.onclose?.({ code: 1006, reason: '' });
    });
  }

  send() {}

  close() {}
}

function connect(protocols) {
  socket = isOffline ? new NoNetwork() : new WebSocket(wanted.get('url') ?? 'ws://127.0.0.1:15674/ws', protocols);
  return socket;
}

element('network').addEventListener('click', ({ target }) => {
  isOffline = !isOffline;
  target.textContent = isOffline ? 'Go online' : 'Go offline';
  if (isOffline) socket.close();
  else client.wake(); // a browser does so by itself when the network is back
});
element('reload').addEventListener('click', () => location.reload());
element('forget').addEventListener('click', () => {
  client.close(); // which hears nothing more
  sessionStorage.clear();
  location.reload();
});

// ---- on the screen ----

function say(state, words) {
  element('state').dataset.state = state;
  element('state').textContent = words;
}

function tell(words) {
  element('news').textContent = words;
}

let isDrawing = false;

/** Once a frame is enough, however many messages come. */
function draw() {
  if (isDrawing) return;
  isDrawing = true;
  setTimeout(() => {
    isDrawing = false;
    const { received, missed, doubled, late, last } = ledger;
    for (const [id, count] of Object.entries({ received, missed, doubled, late })) element(id).textContent = count;
    for (const id of ['missed', 'doubled']) element(id).classList.toggle('is-bad', ledger[id] > 0);
    element('messages').replaceChildren(...last.toReversed().map(({ n, isLate }) => {
      const item = document.createElement('li');
      item.textContent = n;
      item.classList.toggle('is-late', isLate);
      return item;
    }));
  }, 16);
}

element('command').textContent = `python3 publish.py user_${user}`;
draw();
client.connect().catch(() => {}); // `ended` is on the page
