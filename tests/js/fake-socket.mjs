// A WebSocket that a test plays the server of, and time that the test lets pass.
import { FrameImpl, Parser } from '@stomp/stompjs';

export function encodeFrame(command, headers = {}, body = '') {
  const content = typeof body === 'string' ? { body } : { binaryBody: body };
  return FrameImpl.marshall({ command, headers, ...content, escapeHeaderValues: true });
}

export class FakeSocket {
  static all = [];

  static get last() {
    return FakeSocket.all.at(-1);
  }

  constructor(url, protocols) {
    Object.assign(this, { url, protocols, readyState: 0, sent: [] });
    this.parser = new Parser((raw) => this.sent.push(FrameImpl.fromRawFrame(raw, true)), () => this.sent.push({ command: 'beat' }));
    FakeSocket.all.push(this);
  }

  send(data) {
    if (this.readyState === 1) this.parser.parseChunk(data);
  }

  /** The client closes: the server agrees in a moment, unless it is `dead`. */
  close() {
    if (this.readyState === 3) return;
    this.readyState = 2;
    if (!this.dead) queueMicrotask(() => this.end(1000));
  }

  end(code = 1006, reason = '') {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason, wasClean: code === 1000 });
  }

  open() {
    this.readyState = 1;
    this.onopen();
  }

  answer(command, headers, body) {
    this.onmessage({ data: encodeFrame(command, headers, body) });
  }

  /** The login succeeds. */
  accept(headers = {}) {
    this.open();
    this.answer('CONNECTED', { version: '1.2', 'heart-beat': '0,0', ...headers });
  }

  /** The RECEIPT of this frame, by default of the last one. */
  confirm(frame = this.sent.at(-1), headers = {}) {
    this.answer('RECEIPT', { 'receipt-id': frame.headers.receipt, ...headers });
  }

  /** The server closes behind an ERROR. */
  refuse(code, reconnect, { frame, close = 1008, ...headers } = {}) {
    this.deny(code, reconnect, { frame, ...headers });
    this.end(close);
  }

  /** An ERROR after which the connection stays. */
  deny(code, reconnect, { frame, ...headers } = {}) {
    const receipt = frame ? { 'receipt-id': frame.headers.receipt } : {};
    this.answer('ERROR', { message: `words of ${code}`, 'error-code': code, ...(reconnect && { reconnect }), ...receipt, ...headers }, 'more words\n');
  }

  frames(command) {
    return this.sent.filter((frame) => frame.command === command);
  }
}

/** What is ready happens. */
export async function settled() {
  for (let turn = 0; turn < 5; turn += 1) await new Promise((go) => { setImmediate(go); });
}

/** Lets the time pass, in steps, and what waits for it happen. */
export async function pass(context, milliseconds, step = Math.max(1, milliseconds / 20)) {
  await settled();
  for (let left = milliseconds; left > 0; left -= step) {
    context.mock.timers.tick(Math.min(step, left));
    await settled();
  }
}
