// @stomp/rx-stomp in Node: its requests and replies, with temporary queues or a queue of its own.
// Orders: connect, serve, call, disconnect (see remote.mjs).
import { RxStomp, RxStompRPC } from '@stomp/rx-stomp';
import { firstValueFrom } from 'rxjs';

import { obey, tell } from './remote.mjs';
import { open } from './socket.mjs';

let client;

await obey({
  connect({ login, passcode, host, ...where }) {
    client = new RxStomp();
    client.configure({
      webSocketFactory: () => open(where, ['v12.stomp']),
      connectHeaders: { login, passcode, host },
      heartbeatIncoming: 0,
      heartbeatOutgoing: 0,
      reconnectDelay: 0,
    });
    client.connected$.subscribe(() => tell('connected'));
    client.stompErrors$.subscribe((frame) => tell('error', { headers: frame.headers, body: frame.body }));
    client.activate();
  },

  /** Answers requests on the same connection. */
  async serve({ destination }) {
    const served = client.asyncReceipt('serving');
    client.watch({ destination, subHeaders: { receipt: 'serving' } }).subscribe((request) => {
      const { 'reply-to': replyTo, 'correlation-id': id } = request.headers;
      client.publish({ destination: replyTo, headers: { 'correlation-id': id }, body: `re: ${request.body}` });
    });
    await served;
    tell('serving');
  },

  /** Requests, one after the other; `replies` is the queue for the answers, if it is its own. */
  async call({ destination, bodies, replies }) {
    const config = replies && {
      replyQueueName: replies,
      setupReplyQueue: (name, rx) =>
        rx.watch({
          destination: name,
          subHeaders: { durable: 'false', 'auto-delete': 'true', exclusive: 'true' },
        }),
    };
    const rpc = new RxStompRPC(client, config);
    for (const body of bodies) {
      const reply = await firstValueFrom(rpc.rpc({ destination, body }));
      tell('message', { body: reply.body });
    }
  },

  async disconnect() {
    await client.deactivate();
    tell('disconnected');
  },
});
