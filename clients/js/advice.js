// The server's advice: what an ERROR frame, or the code of a close without one, says about coming
// back. Pure. The codes and their meanings: docs/errors.md of the gateway.

const LONGEST = 24 * 60 * 60; // seconds: beyond that, a number is a mistake

/**
 * The broker may have taken a message that was refused with one of these: it did not answer, or has it in some
 * queues only; or the store of sequences failed behind its answer. The last three are the broker's words about one
 * message, which may be told to others of its exchange, too: it does not say which of them it had taken before.
 */
const UNCERTAIN = new Set([
  'broker-unavailable', 'queue-unavailable', 'not-published', 'sequences-unavailable', 'sequence-lost', 'sequence-taken',
  'not-found', 'broker-refused', 'precondition-failed',
]);

/** Refusals of ACK and NACK, which the application sends, so that nothing but the code tells what they are about. */
const OF_ACKNOWLEDGEMENTS = new Set(['invalid-message-id', 'no-subscription', 'unknown-delivery']);

/**
 * Something that went wrong, and the next step: `next` is `retry` (not before `seconds` have passed),
 * `renew` (only with other credentials) or `stop`. `fate` says about a frame whether the server has
 * `refused` it, whether that is `unknown`, or whether it is `unsent`. `reason` tells why there is a `resume-gap`.
 */
export class Problem extends Error {
  constructor(code, message, { detail = '', next = 'retry', seconds = 0, fate, reason, cause } = {}) {
    super(message, { cause });
    Object.assign(this, { name: 'Problem', code, detail, next, seconds, fate, reason });
  }
}

/** The header `reconnect` of an ERROR: `no`, `renew`, or a time such as `5s`. */
export function readAdvice(text) {
  if (text === 'no') return { next: 'stop', seconds: 0 };
  if (text === 'renew') return { next: 'renew', seconds: 0 };
  const [, seconds] = /^(\d+)s$/.exec(text ?? '') ?? [];
  return seconds === undefined ? undefined : { next: 'retry', seconds: Math.min(Number(seconds), LONGEST) };
}

/** Whether an ERROR is about one frame of this client, not about its session. */
export function isOfOneFrame({ 'receipt-id': receipt, subscription, 'error-code': code }) {
  return receipt !== undefined || subscription !== undefined || code === 'frame-too-large' || OF_ACKNOWLEDGEMENTS.has(code);
}

/** The problem that an ERROR frame tells. Without advice in it, `next` is the step. */
export function problemOfError({ headers, body }, next) {
  const code = headers['error-code'] ?? 'error';
  const fate = headers['receipt-id'] === undefined ? undefined : UNCERTAIN.has(code) ? 'unknown' : 'refused';
  const message = headers.message ?? 'the server reports an error';
  return new Problem(code, message, { detail: body.trim(), fate, reason: headers.reason, ...(readAdvice(headers.reconnect) ?? { next }) });
}

/**
 * The problem that a close without an ERROR tells. The codes say less than an ERROR: 1008 is of both kinds. 1002 is
 * also SockJS's word for a network that failed: before the login, and of a session whose download broke off.
 */
export function problemOfClose({ code, reason }, isLoggedIn = true) {
  const isOfNetwork = !isLoggedIn || reason === 'Connection interrupted';
  const next = { 1002: isOfNetwork ? 'retry' : 'stop', 1008: 'renew', 1009: 'stop' }[code] ?? 'retry';
  const message = String(reason ?? '') || `the connection is lost (${code})`;
  return new Problem(next === 'retry' ? 'connection-lost' : `closed-${code}`, message, { next });
}
