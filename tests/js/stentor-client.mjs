// clients/js in Node, at a gateway. Orders: connect, subscribe, publish, status, watch, wake, close (see
// remote.mjs). Of each promise the outcome is told.
import { createHmac } from 'node:crypto';

import { Client } from '@stomp/stompjs';
import { WebSocket } from 'ws';

import { StentorClient } from '../../clients/js/client.js';
import { obey, tell } from './remote.mjs';

let client;

const outcome = ({ code, message, detail, next, seconds, fate }) => ({ code, message, detail, next, seconds, fate });

/** A token as issuers make them, which ends after so many seconds. */
function sign({ secret, seconds, fails: _, ...claims }) {
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ ...claims, exp: Math.floor(Date.now() / 1000) + seconds })}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

await obey({
  /** `token`: the claims of the tokens that it gives, with `secret`, `seconds`, and the reason for which it `fails`. */
  connect({ url, token, ...options }) {
    const give = ({ reason }) => {
      tell('token', { reason });
      if (reason === token.fails) throw new Error('no token for this');
      return sign(token);
    };
    client = new StentorClient({
      Stomp: Client,
      webSocketFactory: (protocols) => new WebSocket(url, protocols),
      onState: (state, { problem, delay, headers }) => tell(state, { ...(problem && outcome(problem)), delay, headers }),
      onProblem: (problem) => tell('problem', outcome(problem)),
      ...(token && { getToken: give }),
      ...options,
    });
    client.connect();
  },

  /** `stored`: what a storage holds already. */
  subscribe({ destination, headers, resume, delta, stored }) {
    const kept = new Map(stored && [['kept', stored]]);
    const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, text) => { kept.set(key, text); } };
    const message = ({ body, headers: { cursor, 'x-delta': kind } }) => tell('message', { destination, body, cursor, kind });
    client.subscribe(destination, message, {
      headers,
      delta,
      resume: resume && { storage, key: 'kept', ...resume },
      onLive: (again) => tell('live', { destination, again, stored: kept.get('kept') }),
      onResumed: ({ missed }) => tell('resumed', { destination, missed }),
      onGap: (reason) => tell('gap', { destination, reason }),
      onProblem: (problem) => tell('subscription-problem', { destination, ...outcome(problem) }),
    }).catch((problem) => tell('refused', { destination, ...outcome(problem) }));
  },

  publish({ destination, body, headers }) {
    client.publish(destination, body, headers)
      .then(() => tell('published', { body }), (problem) => tell('unpublished', { body, ...outcome(problem) }));
  },

  status: ({ status }) => client.setStatus(status).then(() => tell('set', { status }), (problem) => tell('unset', { status, ...outcome(problem) })),
  watch: ({ key }) => { client.watchPresence(key, (event) => tell('presence', event), { onLive: () => tell('watching', { key }) }); },
  wake: () => client.wake(),
  async close() {
    await client.close();
    tell('gone');
  },
});
