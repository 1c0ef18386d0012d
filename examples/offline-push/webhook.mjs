import { createHmac } from 'node:crypto';
import { Refused } from './persist.mjs';

// Of the receiver, not of the message: it is tried again, as Stentor's own webhooks are (docs/webhooks.md).
const AWAY = [401, 403, 404, 405, 407, 408, 410, 421, 425, 429];

/** Posts messages, signed as Stentor signs its own webhooks (docs/webhooks.md). */
export class Webhook {
  #url;
  #secret;

  constructor(url, secret) {
    if (!secret) {
      throw new Error('set WEBHOOK_SECRET, too');
    }
    this.#url = url;
    this.#secret = secret;
  }

  /** Resolves to how many have it: one. */
  async push(message) {
    const body = JSON.stringify(message);
    const seconds = Math.floor(Date.now() / 1000);
    const signature = createHmac('sha256', this.#secret).update(`${seconds}.${body}`).digest('hex');
    const answer = await fetch(this.#url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'stentor-signature': `t=${seconds},v1=${signature}`,
      },
      body,
      redirect: 'error',
      signal: AbortSignal.timeout(5000),
    });
    await answer.arrayBuffer();
    if (!answer.ok) {
      const { status } = answer;
      const isRefused = status >= 400 && status < 500 && !AWAY.includes(status);
      throw new (isRefused ? Refused : Error)(`the webhook answered ${status}`);
    }
    return 1;
  }
}
