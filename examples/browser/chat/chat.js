// The chat without its looks: rooms, their messages and members, from Stentor and the chat's own backend.
import { StentorClient } from 'stentor-client';

const HISTORY = 50; // messages that a room begins with
const KEPT = 300; // messages of a room that are kept here
const TYPES = 5_000; // milliseconds for which somebody counts as typing
const SAID = 2_500; // how often this user's typing is said, at most
const AGAIN = 250; // at least so many milliseconds, and at most twice as many, lie between two questions that events ask for
const ONCE_MORE = 6_000; // a member whose page is being reloaded is away for a moment, without an event

export class Chat {
  #client;
  #backend;
  #authorization;
  #onChange;
  #onState;
  #asking; // the list of rooms is being asked for
  #next; // and will be once more, for something is new since
  #timer;
  me;
  /** id -> { id, name, topic, members, messages, pending, unread, typing, isLive, wasLive } */
  rooms = new Map();

  /** `onChange(room)`: something of a room is new. `onState(state, detail)`: as stentor-client says. */
  constructor({ url, host, backend, user, passcode, onChange, onState }) {
    this.#backend = backend;
    this.#authorization = `Basic ${btoa(`${user}:${passcode}`)}`;
    this.#onChange = onChange;
    this.#onState = onState;
    this.#client = new StentorClient({
      url,
      // In an application: `getToken`, with the session token that your auth hook knows.
      headers: { login: user, passcode, host, 'device-type': 'browser' },
      onState: (state, detail) => {
        if (state !== 'connected') for (const room of this.rooms.values()) room.isLive = false;
        this.#onState(state, detail);
      },
    });
  }

  /** Throws where the backend knows no such user, or is away. */
  async open() {
    await this.#load();
    for (const room of this.rooms.values()) this.#enter(room);
    const look = () => this.#client.setStatus(document.hidden ? 'away' : 'online').catch(() => {});
    document.addEventListener('visibilitychange', look);
    this.#client.connect().catch(() => {}); // `ended` is a state
  }

  // ---- what comes ----

  #enter(room) {
    // History first, then what comes; after a lost connection, what was missed. The client keeps the cursor.
    this.#client.subscribe(`/exchange/chat/room.${room.id}`, (message) => this.#take(room, message), {
      resume: { begin: { last: HISTORY } },
      onResumed: ({ missed }) => { room.missed = missed; },
      onGap: () => { room.messages.push({ type: 'gap', at: new Date() }); },
      onLive: () => this.#live(room),
      onProblem: (problem) => this.#onState('refused', { problem }),
    }).catch(() => {});
    // Newest things only: who types is worth nothing a moment later.
    this.#client.subscribe(`/exchange/chat.typing/room.${room.id}.*`, ({ headers }) => this.#types(room, headers['x-stomp-user']), {
      headers: { conflate: '500' },
    }).catch(() => {});
    const event = ({ user, status }) => {
      const member = room.members.get(user);
      if (member) member.status = status;
      if (this.#asking) this.#reload(); // an answer that is on its way may be older
      this.#onChange(room);
    };
    this.#client.watchPresence(`group.${room.id}`, event, { onLive: () => this.refresh() }).catch(() => {});
  }

  #live(room) {
    Object.assign(room, { isLive: true, wasLive: true });
    this.#onChange(room);
  }

  #take(room, { headers, body }) {
    const user = headers['x-stomp-user']; // Stentor's word; a message of the backend has none
    const said = read(body);
    const at = new Date(said.at);
    if (Number.isNaN(at.valueOf())) return; // of another program
    if (user === undefined) {
      if (!['muted', 'unmuted'].includes(said.type)) return;
      this.#add(room, { type: said.type, user: said.user, by: said.by, at });
      this.refresh();
    } else {
      if (typeof said.text !== 'string') return;
      const id = `${user} ${said.id}`;
      if (room.messages.some((one) => one.id === id)) return; // it was sent twice, after a lost connection
      if (user === this.me.id) room.pending.delete(said.id);
      this.#stopTyping(room, user);
      this.#add(room, { type: 'said', id, user, text: said.text, at });
    }
  }

  #add(room, message) {
    room.messages.push(message);
    if (room.messages.length > KEPT) room.messages.shift();
    if (room.wasLive && message.user !== this.me.id) room.unread += 1;
    this.#onChange(room);
  }

  #types(room, user) {
    if (user === this.me.id || !room.members.has(user)) return;
    clearTimeout(room.typing.get(user));
    room.typing.set(user, setTimeout(() => this.#stopTyping(room, user), TYPES));
    this.#onChange(room);
  }

  #stopTyping(room, user) {
    clearTimeout(room.typing.get(user));
    if (room.typing.delete(user)) this.#onChange(room);
  }

  // ---- what this user does ----

  /** Says it, and shows it as pending until it has come back by the room. */
  send(room, text, id = randomId()) {
    const message = { type: 'said', id, user: this.me.id, text, at: new Date(), state: 'sending' };
    room.pending.set(id, message);
    room.said = 0; // the next key says again that this user types
    this.#onChange(room);
    const body = JSON.stringify({ id, text, at: message.at });
    return this.#client.publish(`/exchange/chat/room.${room.id}`, body, { 'content-type': 'application/json' }).catch(async (problem) => {
      if (problem.fate === 'refused') await this.refresh(); // whether this user is muted
      message.state = 'failed';
      message.why = reason(problem, room, this.isMuted(room));
      this.#onChange(room);
    });
  }

  /** The same message: receivers know it by its id, if it has arrived before. */
  sendAgain(room, id) {
    const { text } = room.pending.get(id);
    room.pending.delete(id);
    return this.send(room, text, id);
  }

  forget(room, id) {
    room.pending.delete(id);
    this.#onChange(room);
  }

  /** A key was pressed. */
  type(room) {
    const now = Date.now();
    if (now - (room.said ?? 0) < SAID || !room.isLive || this.isMuted(room)) return;
    room.said = now;
    this.#client.publish(`/exchange/chat.typing/room.${room.id}.${this.me.id}`).catch(() => {}); // nobody needs it
  }

  isMuted(room) {
    return room.members.get(this.me.id)?.isMuted === true;
  }

  async mute(room, user, isMuted) {
    await this.#ask(isMuted ? 'PUT' : 'DELETE', `/rooms/${room.id}/muted/${encodeURIComponent(user)}`);
    await this.refresh();
  }

  // ---- the backend ----

  /** Asks who is in the rooms. Those who ask meanwhile share the next answer. */
  refresh() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#reload(), ONCE_MORE);
    return this.#reload();
  }

  #reload() {
    if (!this.#asking && !this.#next) {
      this.#asking = this.#load().catch(() => {}).finally(() => { this.#asking = undefined; });
      return this.#asking;
    }
    this.#next ??= this.#asking.then(pause).then(() => { // when a server restarts, events come to all pages for seconds
      this.#next = undefined;
      return this.#reload();
    });
    return this.#next;
  }

  async #load() {
    const { me, rooms } = await this.#ask('GET', '/rooms');
    this.me = me;
    for (const { id, name, topic, members } of rooms) {
      const room = this.rooms.get(id) ?? { messages: [], pending: new Map(), unread: 0, typing: new Map(), isLive: false, wasLive: false };
      Object.assign(room, { id, name, topic, members: new Map(members.map((member) => [member.id, member])) });
      this.rooms.set(id, room);
      this.#onChange(room);
    }
  }

  async #ask(method, path) {
    const response = await fetch(`${this.#backend}/chat${path}`, { method, headers: { authorization: this.#authorization } });
    if (!response.ok) throw Object.assign(new Error(`the chat's backend says ${response.status}`), { status: response.status });
    return response.status === 200 ? response.json() : undefined;
  }
}

function reason(problem, room, isMuted) {
  if (problem.fate === 'unsent') return 'Not sent: there is no connection';
  if (problem.fate === 'unknown') return `It may not have been sent: ${problem.detail || problem.message}`;
  return isMuted ? `Not sent: you are muted in ${room.name}` : `Not sent: ${problem.detail || problem.message}`;
}

function pause() {
  return new Promise((go) => { setTimeout(go, AGAIN * (1 + Math.random())); });
}

function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Anybody in the room may have written it. */
function read(body) {
  try {
    return Object(JSON.parse(body));
  } catch {
    return {};
  }
}
