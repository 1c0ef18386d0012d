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
let subscribed = false;
const destination = `/exchange/feed/user_${user}`;

const client = new Client({
  // The subprotocols tell the server which versions of STOMP this client speaks.
  webSocketFactory: () => new WebSocket(url, ['v12.stomp', 'v11.stomp', 'v10.stomp']),
  connectHeaders: { login: process.env.STOMP_LOGIN ?? user, passcode, host: '/' },
  reconnectDelay: 1_000,

  onConnect() {
    client.watchForReceipt('subscribed', () => {
      subscribed = true;
      console.log(`subscribed to ${destination}`);
    });
    client.subscribe(destination, (message) => {
      // x-stomp-user: stamped by Stentor on what another client sent; absent on a backend's push.
      console.log(`${message.headers['x-stomp-user'] ?? 'backend'}: ${message.body}`);
    }, { receipt: 'subscribed' });
  },

  // The server closes after an ERROR. Before the receipt it means that the hook said no, and asking
  // again would only repeat it. Later (the server restarts, ...) the client reconnects by itself.
  onStompError(frame) {
    console.error(`ERROR ${frame.headers.message}: ${frame.body.trim()}`);
    if (subscribed) return;
    process.exitCode = 1;
    client.deactivate();
  },

  onWebSocketClose() {
    subscribed = false;
    if (client.active) console.error('not connected, trying again ...');
  },
});

client.activate();

// Ctrl-C: say goodbye properly (DISCONNECT), so that presence ends at once.
process.once('SIGINT', () => client.deactivate());
