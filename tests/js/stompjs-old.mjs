// stompjs 2.3.3, of 2014, which many applications never left, over WebSocket or SockJS.
// Orders: connect, subscribe, unsubscribe, send, begin, commit, abort, refuse, disconnect (see
// remote.mjs).
import { createRequire } from 'node:module';

import { obey, tell } from './remote.mjs';
import { open } from './socket.mjs';

// The file for browsers looks for a browser's globals; the package's Node entrance wraps another
// WebSocket than that which browsers have.
const { Stomp } = createRequire(import.meta.url)('stompjs/lib/stomp.js');
Stomp.setInterval = (delay, action) => setInterval(action, delay);
Stomp.clearInterval = clearInterval;

let client;
let refuse = 0;
const subscriptions = new Map();

await obey({
  connect({ login, passcode, host, heartBeat = 0, ...where }) {
    const socket = open(where, ['v11.stomp', 'v10.stomp']);
    client = Stomp.over(socket);
    client.heartbeat = { incoming: heartBeat, outgoing: heartBeat };
    client.debug = (line) => line === '<<< PONG' && tell('heartbeat');
    client.onreceipt = (frame) => tell('receipt', { id: frame.headers['receipt-id'] });
    client.connect(
      { login, passcode, host },
      ({ headers }) => tell('connected', { version: headers.version, headers, transport: socket.transport }),
      (frame) => tell('error', { headers: frame.headers ?? {}, body: String(frame.body ?? frame) }),
    );
    socket.addEventListener('close', ({ code, reason }) => tell('closed', { code, reason: String(reason) }));
    socket.addEventListener('error', (error) => tell('broken', { why: String(error.message ?? error) }));
  },

  subscribe({ destination, headers = {} }) {
    const subscription = client.subscribe(
      destination,
      (message) => {
        tell('message', { destination: message.headers.destination, headers: message.headers, body: message.body });
        if (!headers.ack || headers.ack === 'auto') return;
        if (refuse > 0) {
          refuse -= 1;
          message.nack();
        } else {
          message.ack();
        }
      },
      headers,
    );
    subscriptions.set(destination, subscription);
  },

  unsubscribe({ destination, headers = {} }) {
    subscriptions.get(destination).unsubscribe(headers);
    subscriptions.delete(destination);
  },

  send({ destination, headers = {}, body = '' }) {
    client.send(destination, headers, body);
  },

  begin: ({ transaction }) => client.begin(transaction),
  commit: ({ transaction }) => client.commit(transaction),
  abort: ({ transaction }) => client.abort(transaction),

  /** The next message that wants an ACK gets a NACK. */
  refuse() {
    refuse += 1;
  },

  disconnect() {
    client.disconnect(() => tell('disconnected'));
  },
});
