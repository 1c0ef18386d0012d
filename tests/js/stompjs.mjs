// @stomp/stompjs, the client that most browsers run, in Node.
// Orders: connect, subscribe, unsubscribe, send, begin, commit, abort, refuse, disconnect (see
// remote.mjs).
import { Client } from '@stomp/stompjs';
import { WebSocket } from 'ws';

import { obey, tell } from './remote.mjs';

let client;
let refuse = 0;
const subscriptions = new Map();

await obey({
  connect({ url, login, passcode, host, heartBeat = 0, reconnectDelay = 0, split = 0, binary = false, ca }) {
    client = new Client({
      // A browser's WebSocket, as far as the client can tell.
      webSocketFactory: () => new WebSocket(url, ['v12.stomp', 'v11.stomp', 'v10.stomp'], { ca }),
      connectHeaders: { login, passcode, host },
      heartbeatIncoming: heartBeat,
      heartbeatOutgoing: heartBeat,
      reconnectDelay,
      splitLargeFrames: split > 0,
      maxWebSocketChunkSize: split || undefined,
      forceBinaryWSFrames: binary,
      onConnect: (frame) => tell('connected', { version: client.connectedVersion, headers: frame.headers }),
      onUnhandledReceipt: (frame) => tell('receipt', { id: frame.headers['receipt-id'] }),
      onStompError: (frame) => tell('error', { headers: frame.headers, body: frame.body }),
      onWebSocketClose: ({ code, reason }) => tell('closed', { code, reason: String(reason) }),
      onWebSocketError: (error) => tell('broken', { why: String(error.message ?? error) }),
      onHeartbeatReceived: () => tell('heartbeat'),
    });
    client.activate();
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

  send({ destination, headers = {}, body = '', base64 }) {
    const content = base64 ? { binaryBody: Buffer.from(base64, 'base64') } : { body };
    client.publish({ destination, headers, ...content });
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
