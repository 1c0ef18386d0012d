// @stomp/stompjs, the client that most browsers run, in Node, over WebSocket or SockJS.
// Orders: connect, subscribe, unsubscribe, send, begin, commit, abort, refuse, blunder, disconnect
// (see remote.mjs).
import { Client } from '@stomp/stompjs';

import { obey, tell } from './remote.mjs';
import { open } from './socket.mjs';

let client;
let refuse = 0;
let held;
const subscriptions = new Map();

await obey({
  connect({ login, passcode, host, heartBeat = 0, reconnectDelay = 0, split = 0, binary = false, ...where }) {
    let socket;
    client = new Client({
      // A browser's WebSocket, as far as the client can tell.
      webSocketFactory: () => (socket = open(where, ['v12.stomp', 'v11.stomp', 'v10.stomp'])),
      connectHeaders: { login, passcode, host },
      heartbeatIncoming: heartBeat,
      heartbeatOutgoing: heartBeat,
      reconnectDelay,
      splitLargeFrames: split > 0,
      maxWebSocketChunkSize: split || undefined,
      forceBinaryWSFrames: binary,
      onConnect: ({ headers }) =>
        tell('connected', { version: client.connectedVersion, headers, transport: socket.transport }),
      onUnhandledReceipt: (frame) => tell('receipt', { id: frame.headers['receipt-id'] }),
      onStompError: (frame) => tell('error', { headers: frame.headers, body: frame.body }),
      onWebSocketClose: ({ code, reason }) => tell('closed', { code, reason: String(reason) }),
      onWebSocketError: (error) => tell('broken', { why: String(error.message ?? error) }),
      onHeartbeatReceived: () => tell('heartbeat'),
    });
    client.activate();
  },

  subscribe({ destination, headers = {}, hold = false }) {
    const subscription = client.subscribe(
      destination,
      (message) => {
        held = message;
        tell('message', { destination: message.headers.destination, headers: message.headers, body: message.body });
        if (hold || !headers.ack || headers.ack === 'auto') return;
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

  send({ destination, headers = {}, body = '', base64 }) {
    const content = base64 ? { binaryBody: Buffer.from(base64, 'base64') } : { body };
    client.publish({ destination, headers, ...content });
  },

  /** Sends messages, and then does twice what can be done once, as careless pages do. */
  blunder({ what, of, destination, bodies }) {
    for (const body of bodies) client.publish({ destination, body });
    const once = what === 'ack' ? () => held.ack() : () => subscriptions.get(of).unsubscribe();
    once();
    once();
  },

  begin: ({ transaction }) => client.begin(transaction),
  commit: ({ transaction }) => client.commit(transaction),
  abort: ({ transaction }) => client.abort(transaction),

  /** The next message that wants an ACK gets a NACK. */
  refuse() {
    refuse += 1;
  },

  async disconnect() {
    await client.deactivate();
    tell('disconnected');
  },
});
