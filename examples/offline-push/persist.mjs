import { setTimeout as sleep } from 'node:timers/promises';

const [FIRST, LONGEST] = [200, 60_000]; // milliseconds
// RabbitMQ closes the channel of a consumer that keeps a message for its `consumer_timeout`, 30 minutes.
const PATIENCE = 10 * 60_000;

/** An answer that stays the same, however often it is asked for: about this message, not about the receiver. */
export class Refused extends Error {}

/** Tries at growing pauses. Rejects at once if it is `Refused`, and with the last error after some ten minutes. */
export async function persist(attempt, onfailure, pausing = sleep) {
  let waited = 0;
  for (let pause = FIRST; ; pause = Math.min(2 * pause, LONGEST)) {
    try {
      return await attempt();
    } catch (error) {
      if (error instanceof Refused || waited >= PATIENCE) {
        throw error;
      }
      onfailure(error);
    }
    await pausing(pause);
    waited += pause;
  }
}
