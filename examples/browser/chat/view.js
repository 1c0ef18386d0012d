// What the chat looks like: elements made of its state. They are made anew, for a room has few.

const TOGETHER = 5 * 60_000; // messages of one sender within this time are one group

export function make(name, classes, ...children) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.append(...children);
  return made;
}

/** The user's initial, in its colour, with a dot for its status. */
export function avatar(id, name, status) {
  const made = make('span', 'avatar', name[0]);
  made.style.setProperty('--hue', hue(id));
  made.setAttribute('aria-hidden', 'true');
  if (status) made.dataset.status = status;
  return made;
}

/** The same on every page: far from its neighbours' in the alphabet. */
function hue(id) {
  let sum = 0;
  for (const char of id) sum = (sum * 31 + char.codePointAt(0)) % 65_521;
  return (sum * 137) % 360;
}

export function showRooms(list, chat, open, isShown, enter) {
  list.replaceChildren(...[...chat.rooms.values()].map((room) => {
    const last = room.messages.findLast(({ type }) => type === 'said');
    const line = last ? `${last.user === chat.me.id ? 'You' : nameOf(room, last.user)}: ${last.text}` : room.topic;
    const button = make('button', 'room-button', make('span', 'room-mark', '#'), make('span', 'room-text', make('b', '', room.name), make('span', 'room-line', line)));
    if (room.unread > 0) {
      const badge = make('span', 'badge', String(room.unread));
      badge.setAttribute('aria-label', `${room.unread} unread`);
      button.append(badge);
    }
    button.type = 'button';
    button.dataset.room = room.id;
    if (room === open && isShown) button.setAttribute('aria-current', 'true');
    button.addEventListener('click', () => enter(room));
    return make('li', '', button);
  }));
}

export function showMessages(list, chat, room, acts) {
  const items = [];
  let last; // of the message before
  for (const message of [...room.messages, ...room.pending.values()]) {
    const day = message.at.toDateString();
    if (day !== last?.at.toDateString()) items.push(make('li', 'day', dayWords(message.at)));
    if (message.type === 'said') {
      const isNext = last?.type === 'said' && last.user === message.user && last.at.toDateString() === day && message.at - last.at < TOGETHER;
      items.push(said(chat, room, message, isNext, acts));
    } else {
      items.push(make('li', 'notice', noticeWords(chat, room, message)));
    }
    last = message;
  }
  if (items.length === 0) items.push(make('li', 'empty', room.isLive ? 'Nobody has said anything yet. Begin!' : 'Loading …'));
  list.replaceChildren(...items);
}

function said(chat, room, { id, user, text, at, state, why }, isNext, { again, forget }) {
  const isMine = user === chat.me.id;
  const item = make('li', `said${isMine ? ' is-mine' : ''}${isNext ? ' is-next' : ''}`);
  if (state) item.dataset.state = state;
  const name = nameOf(room, user);
  if (!isMine) item.append(isNext ? make('span', 'gap') : avatar(user, name));
  const time = make('time', '', shortTime(at));
  time.dateTime = at.toISOString();
  const bubble = make('div', 'bubble', make('p', 'text', text), time);
  const column = make('div', 'column');
  if (!isNext && !isMine) column.append(make('b', 'name', name));
  if (isMine) column.append(make('span', 'unseen', 'You:'));
  column.append(bubble);
  if (state === 'failed') {
    const button = (words, act) => {
      const made = make('button', '', words);
      made.type = 'button';
      made.addEventListener('click', () => act(id));
      return made;
    };
    column.append(make('div', 'failed', make('p', '', why), button('Try again', again), button('Delete', forget)));
    column.querySelector('.failed p').setAttribute('role', 'alert');
  }
  item.append(column);
  return item;
}

export function showMembers(list, chat, room, mute) {
  const members = [...room.members.values()].sort((a, b) => (a.status === 'offline') - (b.status === 'offline') || a.name.localeCompare(b.name));
  list.replaceChildren(...members.map(({ id, name, status, isMuted }) => {
    const is = `${status}${isMuted ? ', muted' : ''}`;
    const item = make('li', 'member', avatar(id, name, status), make('div', 'member-text', make('b', '', id === chat.me.id ? `${name} (you)` : name), make('span', 'member-status', is)));
    item.dataset.user = id;
    item.dataset.status = status;
    if (chat.me.moderates && id !== chat.me.id) {
      const button = make('button', 'mute', isMuted ? 'Unmute' : 'Mute');
      button.type = 'button';
      button.setAttribute('aria-label', `${button.textContent} ${name}`);
      button.addEventListener('click', () => mute(id, !isMuted));
      item.append(button);
    }
    return item;
  }));
}

export function typingWords(room) {
  const names = [...room.typing.keys()].map((user) => nameOf(room, user));
  if (names.length === 0) return '';
  if (names.length > 2) return 'Several people are typing';
  return `${names.join(' and ')} ${names.length === 1 ? 'is' : 'are'} typing`;
}

function noticeWords(chat, room, { type, user, by }) {
  if (type === 'gap') return 'Older messages are not kept any more';
  const [whom, who] = [user, by].map((id) => (id === chat.me.id ? 'you' : nameOf(room, id)));
  const words = `${who} ${type} ${whom}`;
  return words[0].toUpperCase() + words.slice(1);
}

const nameOf = (room, id) => room.members.get(id)?.name ?? String(id);
const shortTime = (at) => at.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });

function dayWords(at) {
  const today = new Date();
  if (at.toDateString() === today.toDateString()) return 'Today';
  today.setDate(today.getDate() - 1);
  if (at.toDateString() === today.toDateString()) return 'Yesterday';
  return at.toLocaleDateString([], { weekday: 'long', day: 'numeric', month: 'long' });
}
