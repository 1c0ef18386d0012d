// A user's feed in the browser, with @stomp/stompjs.
// A bundler would let you write `from '@stomp/stompjs'`; without one, name the file.
import { Client } from './node_modules/@stomp/stompjs/esm6/index.js';

const wanted = new URLSearchParams(location.search);
const user = wanted.get('user') ?? 'alice';
const state = document.getElementById('state');

// Whether to come back. The server says it in each ERROR, in the header `reconnect`: `no`; `renew`,
// which is: only with other credentials; or a time such as `5s`. A connection that is lost without a
// word is made again, too: after 1 s, 2 s, 4 s, ... up to 30 s. The random part keeps the pages of a
// server that was restarted from all coming back in one instant.
let subscribed = false;
let failures = 0;
let wish = '';
let toldAt = 0; // when an ERROR said it
const pause = () => 1_000 * (Number.parseInt(wish, 10) || 0) + Math.random() * Math.min(30_000, 500 * 2 ** failures);

const client = new Client({
  brokerURL: wanted.get('url') ?? 'ws://127.0.0.1:15674/ws',
  reconnectDelay: 1, // beforeConnect waits instead
  connectionTimeout: 20_000, // of a login; heart-beats begin after it
  async beforeConnect() {
    if (failures > 0) await new Promise((go) => { setTimeout(go, pause()); });
    wish = '';
    // In an application: the session token that your auth hook knows, not a password in a page.
    client.connectHeaders = { login: wanted.get('login') ?? user, passcode: wanted.get('passcode') ?? `demo-${user}`, host: '/' };
  },

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
      failures = 0;
      state.textContent = `subscribed as ${user}`;
    });
  },

  // The server closes after an ERROR that ends the session; see onWebSocketClose.
  onStompError(frame) {
    state.textContent = `ended: ${frame.headers.message}. ${frame.body}`;
    // Only that subscription has ended; others, if there are any, go on.
    if (frame.headers.subscription) return;
    // A server that gives no advice: before the receipt it was a refusal, which would only be repeated.
    wish = frame.headers.reconnect ?? (subscribed ? '' : 'no');
    toldAt = Date.now();
  },

  onWebSocketClose() {
    subscribed = false;
    failures += 1;
    // The session went on after that ERROR, which was about one frame.
    if (Date.now() - toldAt > 5_000) wish = '';
    // An application fetches a new token if it says `renew`, and comes back. There is none here.
    if (wish === 'no' || wish === 'renew') client.deactivate();
    if (client.active) state.textContent = 'connection lost, reconnecting …';
  },
});

client.activate();
