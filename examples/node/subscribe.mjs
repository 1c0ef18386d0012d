// A user's feed in Node, with @stomp/stompjs over the `ws` WebSocket.
//
//   npm install
//   node subscribe.mjs alice demo-alice          (user, passcode)
//
// Environment: STENTOR_WS (default ws://127.0.0.1:15674/ws), STOMP_LOGIN (default: the user).
import { Client } from '@stomp/stompjs';
import { WebSocket } from 'ws';

const [user = 'alice', passcode = `demo-${user}`] = process.argv.slice(2);
const url = process.env.STENTOR_WS ?? 'ws://127.0.0.1:15674/ws';
const destination = `/exchange/feed/user_${user}`;

// Whether to come back. The server says it in each ERROR, in the header `reconnect`: `no`; `renew`,
// which is: only with other credentials; or a time such as `5s`. A connection that is lost without a
// word is made again, too: after 1 s, 2 s, 4 s, ... up to 30 s. The random part keeps the clients of a
// server that was restarted from all coming back in one instant.
let subscribed = false;
let failures = 0;
let wish = '';
let toldAt = 0; // when an ERROR said it
const pause = () => 1_000 * (Number.parseInt(wish, 10) || 0) + Math.random() * Math.min(30_000, 500 * 2 ** failures);

const client = new Client({
  // The subprotocols tell the server which versions of STOMP this client speaks.
  webSocketFactory: () => new WebSocket(url, ['v12.stomp', 'v11.stomp', 'v10.stomp']),
  reconnectDelay: 1, // beforeConnect waits instead
  connectionTimeout: 20_000, // of a login; heart-beats begin after it
  async beforeConnect() {
    if (failures > 0) await new Promise((go) => { setTimeout(go, pause()); });
    wish = '';
    client.connectHeaders = { login: process.env.STOMP_LOGIN ?? user, passcode, host: '/' };
  },

  onConnect() {
    client.watchForReceipt('subscribed', () => {
      subscribed = true;
      failures = 0;
      console.log(`subscribed to ${destination}`);
    });
    client.subscribe(destination, (message) => {
      // x-stomp-user: stamped by Stentor on what another client sent; absent on a backend's push.
      console.log(`${message.headers['x-stomp-user'] ?? 'backend'}: ${message.body}`);
    }, { receipt: 'subscribed' });
  },

  // The server closes after an ERROR that ends the session; see onWebSocketClose.
  onStompError(frame) {
    // One text may stand for several faults; `error-code` tells them apart (docs/errors.md).
    const code = frame.headers['error-code'];
    console.error(`ERROR ${frame.headers.message}: ${frame.body.trim()}${code ? ` (${code})` : ''}`);
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
    if (wish === 'no' || wish === 'renew') {
      process.exitCode = 1;
      client.deactivate();
    }
    if (client.active) console.error('not connected, trying again ...');
  },
});

client.activate();

// Ctrl-C: say goodbye properly (DISCONNECT), so that presence ends at once.
process.once('SIGINT', async () => {
  await client.deactivate();
  process.exit();
});
