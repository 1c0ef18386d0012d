// The same feed as main.js, with stentor-client: when to come back, and when not, is its business.
import { StentorClient } from 'stentor-client';

const wanted = new URLSearchParams(location.search);
const user = wanted.get('user') ?? 'alice';
const state = document.getElementById('state');

const client = new StentorClient({
  url: wanted.get('url') ?? 'ws://127.0.0.1:15674/ws',
  // In an application: `getToken`, with the session token that your auth hook knows.
  headers: { login: wanted.get('login') ?? user, passcode: wanted.get('passcode') ?? `demo-${user}`, host: '/' },
  onState(name, { problem }) {
    if (name === 'waiting') state.textContent = 'connection lost, reconnecting …';
    if (name === 'ended') end(problem);
  },
});

function end({ message, detail }) {
  state.textContent = `ended: ${message}. ${detail}`;
  client.close();
}

const show = ({ body }) => {
  const item = document.createElement('li');
  item.textContent = body;
  document.getElementById('messages').prepend(item);
};
// From here on, nothing that is published to this user is missed; after a reconnect, `again`, load your state.
const onLive = (again) => { state.textContent = `subscribed ${again ? 'again ' : ''}as ${user}`; };

client.connect();
client.subscribe(`/exchange/feed/user_${user}`, show, { onLive, onProblem: (problem) => problem.next === 'retry' || end(problem) });
