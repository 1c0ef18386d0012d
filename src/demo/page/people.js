// Who is here. The list begins with what the demo's server says, and then follows the events that
// Stentor publishes to the exchange `presence`; a page needs nothing for that but a subscription.

import { element } from '/element.js';

/** What a user can choose to be. Who is invisible looks offline to everybody else. */
export const STATUSES = ['online', 'away', 'busy', 'invisible'];

const ASK_AGAIN = 5_000; // milliseconds; a second device is no event, for its user was here before
const AFTER_EVENT = 250; // one question for events that come together

const shortTime = (when) => new Date(when).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', hour12: false });

export class People {
  #list;
  #summary;
  #slots; // user -> the colour of its window
  #people = new Map(); // user -> { status, since, devices, at: of its last event }
  #rows = new Map(); // user -> its element
  #asking = null;
  #changes = 0; // events so far: an answer that was asked for before the last one is stale

  constructor({ list, summary, users }) {
    this.#list = list;
    this.#summary = summary;
    this.#slots = new Map(users.map(({ name }, slot) => [name, slot]));
    for (const { name } of users) this.#set(name, { status: 'offline', devices: [] });
    const devices = () => document.hidden || this.#ask(false);
    setInterval(devices, ASK_AGAIN);
    document.addEventListener('visibilitychange', devices);
    this.begin();
  }

  /** Asks who is here: at the start, and after a reconnect, which may have missed events. */
  begin() {
    return this.#ask(true);
  }

  /** An event, as it is published: `{ type, user, status, previous, at }`. */
  handle({ user, status, at }) {
    const known = this.#people.get(user) ?? { devices: [] };
    if (at < known.at) return; // of two the later one holds, in whichever order they come
    this.#changes += 1;
    this.#set(user, { ...known, status, at });
    clearTimeout(this.#asking);
    this.#asking = setTimeout(() => this.#ask(false), AFTER_EVENT);
  }

  // Who is gone for a moment only, to load the page again, is no event; so between events no
  // status is taken from the answer, but only devices.
  async #ask(statuses) {
    const changes = this.#changes;
    let present;
    try {
      const response = await fetch('/demo/presence');
      if (!response.ok) return;
      present = (await response.json()).users;
    } catch { // the server is away: the windows say so, and it is asked again
      return;
    }
    if (changes !== this.#changes) return;
    const online = new Map(present.map((person) => [person.user, person]));
    for (const user of new Set([...this.#people.keys(), ...online.keys()])) {
      const known = this.#people.get(user);
      const found = online.get(user) ?? { status: 'offline', devices: [] };
      if (statuses || !known) this.#set(user, { ...found, at: known?.at });
      else if (online.has(user)) this.#set(user, { ...found, status: known.status, at: known.at });
    }
  }

  #set(user, person) {
    this.#people.set(user, person);
    const row = this.#rows.get(user) ?? this.#addRow(user);
    this.#fill(row, person);
    const here = [...this.#people.values()].filter(({ status }) => status !== 'offline').length;
    this.#summary.textContent = `${here} of ${this.#people.size}`;
  }

  #addRow(user) {
    const row = element('li', `person user-${this.#slots.get(user) ?? 'other'}`);
    row.dataset.testid = `person-${user}`;
    const avatar = element('span', 'avatar', user[0]);
    avatar.setAttribute('aria-hidden', 'true');
    const text = element('div', 'person-text');
    const line = element('p', 'person-line');
    line.append(element('b', 'person-name', user), element('span', 'person-status'));
    text.append(line, element('p', 'person-devices'));
    row.append(avatar, text);
    this.#rows.set(user, row);
    this.#list.append(row);
    return row;
  }

  #fill(row, { status, since, devices }) {
    row.dataset.status = status;
    row.querySelector('.person-status').textContent = status;
    const here = status !== 'offline' && devices.length > 0;
    const kinds = devices.map(({ type, transport }) => type ?? transport);
    row.querySelector('.person-devices').textContent = here ? `${counted(kinds)} · since ${shortTime(since)}` : 'no device';
  }
}

// "desktop", "desktop × 2, phone"
function counted(kinds) {
  const counts = new Map();
  for (const kind of kinds) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return [...counts].map(([kind, count]) => (count > 1 ? `${kind} × ${count}` : kind)).join(', ');
}
