// A user's feed in the browser, with @stomp/stompjs.
// A bundler would let you write `from '@stomp/stompjs'`; without one, name the file.
import { Client } from './node_modules/@stomp/stompjs/esm6/index.js';

const wanted = new URLSearchParams(location.search);
const user = wanted.get('user') ?? 'alice';
const state = document.getElementById('state');
let subscribed = false;

const client = new Client({
  brokerURL: wanted.get('url') ?? 'ws://127.0.0.1:15674/ws',
  // In an application: the session token that your auth hook knows, not a password in a page.
  connectHeaders: { login: wanted.get('login') ?? user, passcode: wanted.get('passcode') ?? `demo-${user}`, host: '/' },
  heartbeatIncoming: 10_000,
  heartbeatOutgoing: 10_000,
  reconnectDelay: 1_000,

  // Called after each (re)connect, so subscriptions come back by themselves.
  onConnect() {
    client.subscribe(`/exchange/feed/user_${user}`, (message) => {
      const item = document.createElement('li');
      item.textContent = message.body;
      document.getElementById('messages').prepend(item);
    }, { receipt: 'subscribed' });
    // From the receipt on, nothing that is published to this user is missed.
    client.watchForReceipt('subscribed', () => {
      subscribed = true;
      state.textContent = `subscribed as ${user}`;
    });
  },

  // The server closes after an ERROR. Before the receipt it means that the hook said no to the login
  // or to this feed, and asking again would only repeat it: stop, and tell the user. Later (the
  // server restarts, this client was too slow, ...) the client reconnects as after any lost link.
  onStompError(frame) {
    if (subscribed) return;
    state.textContent = `refused: ${frame.headers.message}. ${frame.body}`;
    client.deactivate();
  },

  onWebSocketClose() {
    subscribed = false;
    if (client.active) state.textContent = 'connection lost, reconnecting …';
  },
});

client.activate();
