// The demo page. All it knows of its server comes from /demo/info; all it shows of STOMP comes
// through @stomp/stompjs and clients/js, like in any application.

import { element } from '/element.js';
import { shownSocket } from '/frames.js';
import { People, STATUSES } from '/people.js';
import { StentorClient } from '/stentor-client/client.js';

const KEPT_MESSAGES = 50;
const KEPT_FRAMES = 200;

const byId = (id) => document.getElementById(id);
const byTestId = (id) => document.querySelector(`[data-testid="${id}"]`);
const clock = (date = new Date()) => date.toLocaleTimeString([], { hour12: false });

// ---- latency: what was sent and not yet seen, by routing key and body ----

const inFlight = new Map(); // "key\nbody" -> times of sending, oldest first

function departed(key, body) {
  const id = `${key}\n${body}`;
  inFlight.set(id, [...(inFlight.get(id) ?? []), performance.now()]);
  return id;
}

function arrived(key, body) { // milliseconds on the way; undefined if it was not sent from this page
  const times = inFlight.get(`${key}\n${body}`);
  const started = times?.shift();
  if (times?.length === 0) inFlight.delete(`${key}\n${body}`);
  return started && performance.now() - started;
}

const milliseconds = (time) => (time < 1 ? '< 1 ms' : `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`);

// ---- a user's window ----

class UserWindow {
  constructor(slot, user, peer, info, people) {
    this.slot = slot;
    this.people = people;
    this.user = user;
    this.peer = peer;
    this.info = info;
    this.key = `user_${user.name}`;
    this.url = new URL(info.websocket, location.href).href.replace(/^http/, 'ws');
    this.root = document.querySelector(`[data-slot="${slot}"]`);
    this.root.replaceChildren(byId('window').content.cloneNode(true));
    this.find = (selector) => this.root.querySelector(selector);
    this.label();
    this.offerStatuses();
    this.listen();
    this.connect(user.passcode);
  }

  feed(name) {
    return `/exchange/${this.info.exchange}/user_${name}`;
  }

  label() {
    const { name, passcode } = this.user;
    this.root.setAttribute('aria-label', `${name}’s browser`);
    this.root.removeAttribute('aria-busy');
    const texts = {
      '.name': name, '.avatar': name[0], '.address': this.url, '.destination': this.feed(name), '.empty b': this.key,
      '.login-title b': name, '.forbidden': `Try to read ${this.peer.name}’s feed`,
    };
    for (const [selector, text] of Object.entries(texts)) this.find(selector).textContent = text;
    const testIds = {
      '.state': 'state', '.messages': 'messages', '.send': 'send', '.error': 'error', '.forbidden': 'forbidden', '.login': 'login',
      '.passcode': 'passcode', '.disconnect': 'disconnect', '.send-body': 'send-body', '.subscription': 'subscription',
    };
    for (const [selector, id] of Object.entries(testIds)) this.find(selector).dataset.testid = `${id}-${name}`;
    this.root.dataset.testid = `card-${name}`;
    this.find('.scroll').setAttribute('aria-label', `${name}’s messages`);
    this.find('.send-body').placeholder = `Message to ${this.peer.name}`;
    this.find('.send-body').setAttribute('aria-label', `Message from ${name} to ${this.peer.name}`);
    this.find('.disconnect').setAttribute('aria-label', `Disconnect ${name}`);
    this.find('.passcode').id = `passcode-${name}`;
    this.find('.login label').htmlFor = `passcode-${name}`;
    this.find('.passcode').value = passcode;
  }

  // What the user is to others. Each login begins with what was chosen, so that who is invisible is
  // not seen for a moment.
  offerStatuses() {
    this.status = 'online';
    const { name } = this.user;
    for (const status of STATUSES) {
      const label = element('label', '');
      const radio = Object.assign(element('input'), { type: 'radio', name: `status-${name}`, value: status, checked: status === this.status });
      radio.addEventListener('change', () => this.choose(status));
      label.dataset.testid = `choose-${status}-${name}`;
      label.dataset.status = status;
      label.append(radio, element('span', 'dot'), status);
      this.find('.statuses').append(label);
    }
    this.find('.statuses').setAttribute('aria-label', `What ${name} is to others`);
  }

  async choose(status) {
    const before = this.status;
    this.status = status;
    try {
      await this.client.setStatus(status); // and each login says it
    } catch (error) {
      if (error.fate !== 'refused') return; // the next login says it
      this.status = before;
      this.find(`.statuses input[value="${before}"]`).checked = true;
      this.say(`The status stays ${before}`, error.message, '');
    }
  }

  listen() {
    this.find('.disconnect').addEventListener('click', () => this.client.close());
    this.find('.dismiss').addEventListener('click', () => { this.find('.error').hidden = true; });
    this.find('.forbidden').addEventListener('click', () => this.tryForbidden());
    this.find('.login').addEventListener('submit', (event) => {
      event.preventDefault();
      this.find('.error').hidden = true;
      this.connect(this.find('.passcode').value);
    });
    this.find('.send').addEventListener('submit', (event) => {
      event.preventDefault();
      this.send(this.find('.send-body'));
    });
  }

  connect(passcode) {
    const seen = (direction, frame) => log(this, direction, frame);
    this.client = new StentorClient({
      Stomp: StompJs.Client,
      webSocketFactory: (protocols) => shownSocket(this.url, protocols, seen),
      headers: { host: '/', login: this.user.name, passcode, 'device-type': device() },
      onState: (state, detail) => this.showState(state, detail),
      onProblem: (problem) => this.showError(problem),
    });
    this.isKnown = false;
    this.client.setStatus(this.status);
    // The tick stands for the RECEIPT of the user's own SUBSCRIBE: from there on nothing is missed.
    const isLive = () => this.find('.subscription').classList.add('is-live');
    this.client.subscribe(this.feed(this.user.name), (message) => this.receive(message), { onLive: isLive });
    // The list is the page's: either user may keep it up to date. Only from the receipt on is every
    // change an event; so the list is asked for after it.
    const { exchange, group } = this.info.presence;
    this.client.watchPresence(`group.${group}`, (event) => this.people.handle(event), { exchange, onLive: () => this.people.begin() });
    this.client.connect();
  }

  async send(input) {
    const body = input.value;
    const key = `user_${this.peer.name}`;
    input.value = '';
    departed(key, body);
    try {
      await this.client.publish(this.feed(this.peer.name), body, { 'content-type': 'text/plain;charset=utf-8' });
    } catch (error) { // the text is not lost: it goes back into the field
      arrived(key, body);
      if (!input.value) input.value = body;
      this.say(`Not sent: ${error.message}`, '', '');
    }
  }

  receive(message) {
    const body = message.body;
    const latency = arrived(this.key, body);
    // Who sent it is stamped by Stentor; what a backend publishes bears no such stamp.
    const sender = message.headers['x-stomp-user'];
    const item = element('li', sender ? 'is-new from-user' : 'is-new');
    const meta = element('p', 'meta');
    meta.append(element('span', 'from', sender ?? 'backend'), element('time', '', clock()));
    if (latency !== undefined) {
      const badge = element('span', 'latency', milliseconds(latency));
      badge.title = 'from the click to this line, through the broker';
      meta.append(badge);
      if (!sender) showPush(`${milliseconds(latency)} later on ${this.user.name}’s screen`);
    }
    item.append(meta, element('p', /^\s*[[{]/.test(body) ? 'body is-json' : 'body', body));
    const list = this.find('.messages');
    list.prepend(item);
    while (list.children.length > KEPT_MESSAGES) list.lastChild.remove();
    this.find('.inbox').classList.add('has-messages');
    if (sender === this.peer.name) light.sent(1 - this.slot, this.slot);
    else light.pushed(this.slot);
  }

  // Asks for a feed that is not this user's. The hook says no, the server answers ERROR and closes;
  // the client then drops that subscription, comes back and keeps the user's own.
  tryForbidden() {
    this.find('.error').hidden = true;
    this.client.subscribe(this.feed(this.peer.name), (message) => this.receive(message)).then(
      () => this.say('The hook allowed it', `${this.user.name} now reads ${this.feed(this.peer.name)}, too.`, ''),
      () => {}, // shown by showError
    );
  }

  showState(named, { problem, delay }) {
    const isRefused = named === 'ended' && !this.isKnown;
    const state = isRefused ? 'refused' : named;
    this.root.dataset.state = state;
    const connected = state === 'connected';
    this.isKnown ||= connected;
    const open = connected || state === 'connecting' || state === 'waiting';
    const names = { waiting: 'reconnecting', refused: 'login refused', ended: 'session ended', closed: 'disconnected' };
    this.find('.state').textContent = names[state] ?? state;
    if (!connected) this.find('.subscription').classList.remove('is-live');
    this.find('.disconnect').hidden = !open;
    this.find('.login').hidden = open;
    this.find('.scroll').inert = !open;
    this.find('.forbidden').disabled = !connected;
    for (const control of this.find('.send').elements) control.disabled = !connected;
    if (connected) {
      light.asked(this.slot, true);
      if (this.returning) this.find('.error-note').textContent = `Reconnected at ${clock()}; ${this.user.name}’s own feed goes on.`;
      this.returning = false;
    } else if (state === 'waiting') {
      this.find('.state').title = problem.message;
    }
    // What comes of an ERROR: the server says in it whether to come back, and the client obeys.
    const next = {
      refused: 'The login was refused: log in again.',
      ended: 'The server asks not to come back by itself: log in again if you want to.',
      waiting: `After an ERROR the connection is closed, as STOMP demands. Reconnecting in ${Math.ceil(delay / 1000)} s …`,
    }[state];
    if (this.returning && next) this.find('.error-note').textContent = next;
  }

  showError({ message, detail }) {
    this.returning = true;
    this.say(`ERROR: ${message}`, detail, '');
    light.asked(this.slot, false);
  }

  say(title, body, note) {
    this.find('.error-title').textContent = title;
    this.find('.error-body').textContent = body;
    this.find('.error-note').textContent = note;
    this.find('.error').hidden = false;
  }
}

// What the device is called in the list.
const device = () => (matchMedia('(pointer: coarse)').matches ? 'phone' : 'desktop');

// ---- the backend ----

function showPush(text, bad = false) {
  byId('push-status').textContent = text;
  byId('push-status').classList.toggle('is-bad', bad);
}

let pushes = 0;

async function push(event) {
  event.preventDefault();
  const number = pushes += 1;
  const key = byId('push-key').value.trim();
  const body = byId('push-body').value;
  const id = departed(key, body);
  showPush('Publishing …');
  try {
    const response = await fetch('/demo/push', {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ key, body }),
    });
    if (!response.ok) throw new Error((await response.text()).trim() || `status ${response.status}`);
  } catch (error) {
    arrived(key, body);
    const reason = error instanceof TypeError ? 'the demo’s server does not answer' : error.message; // fetch's own words vary
    showPush(`Not published: ${reason}.`, true);
    return;
  }
  setTimeout(() => { // nobody here has it: connected elsewhere, or not at all
    if (!inFlight.has(id)) return;
    arrived(key, body);
    light.published();
    if (number === pushes) showPush(`Published; nobody on this page is subscribed to ${key}.`);
  }, 1500);
}

function showBackend(info) {
  const keys = info.users.map(({ name }) => [name, `user_${name}`]);
  const texts = {
    curl: info.curl,
    pika: info.pika ?? '# The embedded broker lives inside this process and speaks no AMQP.\n# Start the demo with a RabbitMQ to publish from Python,\n# or any other language that has an AMQP client.',
    stomp: info.stomp ? stompOverTcp(info) : '# This demo listens for WebSockets only.',
  };
  const [, firstKey] = keys[0];
  const field = byId('push-key');
  const follow = () => {
    const key = field.value.trim();
    for (const chip of byId('keys').children) chip.setAttribute('aria-pressed', chip.value === key);
    // The lines follow the key that is chosen, as long as it needs no quoting in a shell or a program.
    const shown = /^[\w.-]+$/.test(key) ? key : firstKey;
    for (const [id, text] of Object.entries(texts)) byTestId(id).textContent = text.replaceAll(firstKey, shown);
  };
  for (const [name, key] of keys) {
    const chip = element('button', '', name);
    Object.assign(chip, { type: 'button', value: key });
    chip.addEventListener('click', () => { field.value = key; follow(); });
    byId('keys').append(chip);
  }
  field.value = firstKey;
  field.addEventListener('input', follow);
  byId('push').addEventListener('submit', push);
  follow();
}

// Frames typed by hand. The sender is not the receiver: the last user writes to the first.
function stompOverTcp({ stomp, users, exchange }) {
  const { name, passcode } = users.at(-1);
  const [host, port] = [stomp.slice(0, stomp.lastIndexOf(':')), stomp.slice(stomp.lastIndexOf(':') + 1)];
  const connect = `CONNECT\\naccept-version:1.2\\nhost:/\\nlogin:${name}\\npasscode:${passcode}\\n\\n\\0`;
  const send = `SEND\\ndestination:/exchange/${exchange}/user_${users[0].name}\\n\\nHello over TCP\\0`;
  return `printf '${connect}${send}DISCONNECT\\nreceipt:bye\\n\\n\\0' | nc -w 2 ${host} ${port}`;
}

function tabs() {
  const all = [...document.querySelectorAll('[role="tab"]')];
  const select = (tab, focus) => {
    for (const each of all) {
      each.setAttribute('aria-selected', each === tab);
      each.tabIndex = each === tab ? 0 : -1;
      byId(each.getAttribute('aria-controls')).classList.toggle('is-shown', each === tab);
    }
    if (focus) tab.focus();
  };
  all.forEach((tab, index) => {
    tab.addEventListener('click', () => select(tab));
    tab.addEventListener('keydown', ({ key }) => {
      const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: all.length - 1 }[key];
      if (to !== undefined) select(all[(to + all.length) % all.length], true);
    });
  });
  byId('copy').addEventListener('click', () => copy(byId('copy')));
}

async function copy(button) {
  const code = document.querySelector('.panel.is-shown code');
  let done = true;
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // no clipboard outside https and localhost: select it for the user
    getSelection().selectAllChildren(code);
    done = document.execCommand('copy');
  }
  button.textContent = done ? 'Copied' : 'Selected';
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}

// ---- frames ----

let frames = 0;

function log({ user, slot }, direction, frame) {
  if (byId('log-pause').checked) return;
  frames += 1;
  byId('log-count').textContent = frames;
  const { command, headers } = frame;
  const row = element('details', `user-${slot} ${direction}${command === 'ERROR' ? ' is-error' : ''}`);
  const brief = [headers.destination ?? headers.message ?? headers.login ?? headers['receipt-id'] ?? headers.version ?? '', frame.body];
  const summary = element('summary');
  summary.append(
    element('time', '', clock()), element('span', 'user', user.name), element('span', 'arrow', direction === 'in' ? '←' : '→'),
    element('span', 'command', command), element('span', 'brief', brief.filter(Boolean).join('  ')),
  );
  const lines = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`);
  row.append(summary, element('pre', '', `${command}\n${lines.join('')}\n${frame.body}`));
  const item = element('li');
  item.append(row);
  const list = byId('frames');
  list.prepend(item);
  while (list.children.length > KEPT_FRAMES) list.lastChild.remove();
}

byId('log-clear').addEventListener('click', () => {
  byId('frames').replaceChildren();
  frames = 0;
  byId('log-count').textContent = 0;
});
byId('log').open = matchMedia('(min-width: 681px)').matches;

// ---- the drawn way: a light travels along it ----

const HOP = 260; // milliseconds for one edge
const still = matchMedia('(prefers-reduced-motion: reduce)');
const fading = new WeakMap(); // element -> the timer that ends its glow
let travelling = 0;

function glow(target, kind, duration = 800) {
  clearTimeout(fading.get(target));
  target.classList.remove('is-push', 'is-in', 'is-good', 'is-bad');
  target.classList.add(kind);
  fading.set(target, setTimeout(() => target.classList.remove(kind), duration));
}

function slide(edge, backwards, pulse) {
  const length = edge.getTotalLength();
  return new Promise((resolve) => {
    let started;
    const step = (now) => {
      started ??= now;
      const done = Math.min(1, (now - started) / HOP);
      const eased = done * done * (3 - 2 * done);
      const { x, y } = edge.getPointAtLength(length * (backwards ? 1 - eased : eased));
      pulse.setAttribute('cx', x);
      pulse.setAttribute('cy', y);
      if (done < 1) requestAnimationFrame(step);
      else resolve();
    };
    requestAnimationFrame(step);
  });
}

// A route is the first node, then for each hop: edge, node; an edge with a minus is walked backwards.
async function travel(first, ...hops) {
  const drawing = [...document.querySelectorAll('.path svg')].find((svg) => svg.getClientRects().length > 0);
  if (!drawing || document.hidden || travelling >= 12) return; // a flood of messages is not a show
  const node = (name) => drawing.querySelector(`[data-node="${name}"]`);
  travelling += 1;
  const pulse = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
  pulse.setAttribute('r', 7);
  glow(node(first), hops[0][2]);
  for (const [walk, next, kind] of hops) {
    const edge = drawing.querySelector(`[data-edge="${walk.replace(/^-/, '')}"]`);
    if (still.matches) {
      glow(edge, kind, 1500);
      glow(node(next), kind, 1500);
      continue;
    }
    glow(edge, kind);
    pulse.setAttribute('class', `pulse ${kind}`);
    const sliding = slide(edge, walk.startsWith('-'), pulse); // placed at the next picture,
    requestAnimationFrame(() => drawing.querySelector('.pulses').append(pulse)); // shown with it
    await sliding;
    glow(node(next), kind);
  }
  pulse.remove();
  travelling -= 1;
}

const light = {
  published: () => travel('backend', ['backend-exchange', 'exchange', 'is-push']),
  pushed: (to) => travel(
    'backend',
    ['backend-exchange', 'exchange', 'is-push'],
    ['exchange-stentor', 'stentor', 'is-push'],
    [`stentor-${to}`, `user-${to}`, 'is-push'],
  ),
  sent: (from, to) => travel(
    `user-${from}`,
    [`-stentor-${from}`, 'stentor', 'is-in'],
    ['stentor-exchange', 'exchange', 'is-in'],
    ['exchange-stentor', 'stentor', 'is-push'],
    [`stentor-${to}`, `user-${to}`, 'is-push'],
  ),
  asked(from, granted) {
    const answer = granted ? 'is-good' : 'is-bad';
    travel(
      `user-${from}`,
      [`-stentor-${from}`, 'stentor', 'is-in'],
      ['stentor-hook', 'hook', 'is-in'],
      ['-stentor-hook', 'stentor', answer],
      [`stentor-${from}`, `user-${from}`, answer],
    );
  },
};

// ---- start ----

async function askInfo() {
  const response = await fetch('/demo/info');
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
}

async function start() {
  const offline = byId('offline');
  let info;
  while (!info) {
    try {
      info = await askInfo();
    } catch (error) {
      offline.textContent = `The demo’s server does not answer (${error.message}). Is “stentor demo” running? Trying again …`;
      offline.hidden = false;
      await new Promise((resolve) => { setTimeout(resolve, 2000); });
    }
  }
  offline.hidden = true;
  const embedded = info.broker === 'embedded';
  byId('broker').textContent = embedded ? 'embedded broker' : info.broker;
  const [first, second] = info.users;
  const names = { exchange: info.exchange, presence: info.presence.exchange, broker: embedded ? 'Broker' : 'RabbitMQ', 'user-0': first.name, 'user-1': second.name };
  for (const place of document.querySelectorAll('[data-text]')) place.textContent = names[place.dataset.text];
  showBackend(info);
  const people = new People({ list: byId('people'), summary: byId('people-count'), users: info.users });
  new UserWindow(0, first, second, info, people);
  new UserWindow(1, second, first, info, people);
}

tabs();
start();
