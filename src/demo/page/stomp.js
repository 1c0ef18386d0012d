// A small STOMP 1.2 client over WebSocket, complete enough to learn from and to use.
//
//   const client = new StompClient({ url: 'ws://localhost:15674/ws', login: 'alice', passcode: '…' });
//   client.connect();
//   const feed = client.subscribe('/exchange/feed/user_alice', (message) => show(message.text));
//   await client.send('/exchange/feed/user_bob', 'hello');   // resolves once the broker has it
//   feed.unsubscribe();
//
// Four facts about STOMP explain most of the code below:
//   1. A frame is a command, headers, an empty line, a body and a NUL byte.
//   2. A WebSocket message is not a frame: a frame may span several, one may hold many.
//   3. An ERROR is always the last frame: the server closes behind it.
//   4. Stentor's ERROR says in the header `reconnect` whether to come back: `no`; `renew`, which is: only
//      with other credentials; or a time such as `5s`.

const LF = 10;
const CR = 13;
const utf8 = new TextEncoder();

// Header escapes of STOMP 1.2. CONNECT and CONNECTED are exempt, so that passwords travel as typed.
const ESCAPES = { '\\': '\\\\', '\r': '\\r', '\n': '\\n', ':': '\\c' };
const UNESCAPES = { '\\\\': '\\', '\\r': '\r', '\\n': '\n', '\\c': ':' };
const escape = (text) => String(text).replace(/[\\\r\n:]/g, (char) => ESCAPES[char]);
const unescape = (text) => text.replace(/\\[^]?/g, (pair) => {
  if (pair in UNESCAPES) return UNESCAPES[pair];
  throw new Error(`undefined escape ${pair} in a header`);
});

/** One frame as bytes (body is a Uint8Array) or as text (any other body): `WebSocket.send` takes both. */
export function encodeFrame(command, headers = {}, body = '') {
  const binary = body instanceof Uint8Array;
  const bytes = binary ? body : utf8.encode(body);
  const plain = command === 'CONNECT';
  const lines = Object.entries(headers)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => (plain ? `${name}:${value}` : `${escape(name)}:${escape(value)}`));
  // content-length counts octets, not characters; with it a body may hold NUL.
  if (bytes.length > 0) lines.push(`content-length:${bytes.length}`);
  const head = `${[command, ...lines].join('\n')}\n\n`;
  if (!binary) return `${head}${body}\0`;
  const headBytes = utf8.encode(head);
  const frame = new Uint8Array(headBytes.length + bytes.length + 1); // ends in 0, which is the NUL
  frame.set(headBytes);
  frame.set(bytes, headBytes.length);
  return frame;
}

/** A received frame. `body` is bytes; `text` decodes it; a repeated header keeps its first value. */
export class Frame {
  constructor(command, headers, body) {
    Object.assign(this, { command, headers, body });
  }

  get text() {
    return new TextDecoder().decode(this.body);
  }
}

/** Cuts a stream of bytes into frames, however the stream arrives. Never scans a byte twice. */
export class FrameParser {
  #bytes = new Uint8Array(1024);
  #end = 0; // how much of #bytes is filled
  #scan = 0; // where the search goes on
  #head = null; // the current frame's parsed head, once it is complete

  /** Takes a string, ArrayBuffer or Uint8Array; returns the frames that it completes. */
  push(data) {
    const chunk = typeof data === 'string' ? utf8.encode(data) : new Uint8Array(data);
    this.#append(chunk);
    const frames = [];
    for (let frame = this.#next(); frame; frame = this.#next()) frames.push(frame);
    return frames;
  }

  #append(chunk) {
    if (this.#end + chunk.length > this.#bytes.length) { // doubling keeps a long body linear
      const larger = new Uint8Array(2 * (this.#end + chunk.length));
      larger.set(this.#bytes.subarray(0, this.#end));
      this.#bytes = larger;
    }
    this.#bytes.set(chunk, this.#end);
    this.#end += chunk.length;
  }

  #next() {
    this.#head ??= this.#readHead();
    if (!this.#head) return null;
    const { command, headers, start } = this.#head;
    const length = headers['content-length'];
    let nul;
    if (length !== undefined) {
      if (!/^\d+$/.test(length)) throw new Error(`content-length is not a number: ${length}`);
      nul = start + Number(length);
      if (nul >= this.#end) return null;
      if (this.#bytes[nul] !== 0) throw new Error('no NUL where content-length says the body ends');
    } else {
      nul = this.#find(0);
      if (nul === -1) return null;
    }
    const frame = new Frame(command, headers, this.#bytes.slice(start, nul));
    this.#drop(nul + 1);
    return frame;
  }

  #readHead() {
    let blank = 0; // line ends between frames are heart-beats
    while (blank < this.#end && (this.#bytes[blank] === LF || this.#bytes[blank] === CR)) blank += 1;
    if (blank > 0) this.#drop(blank);
    for (;;) { // the head ends at the first line end that is followed by another one
      const lf = this.#find(LF);
      if (lf === -1) return null;
      const next = this.#bytes[lf + 1] === CR ? lf + 2 : lf + 1;
      if (next >= this.#end) {
        this.#scan = lf;
        return null;
      }
      this.#scan = lf + 1;
      if (this.#bytes[next] !== LF) continue;
      this.#scan = next + 1;
      return { ...parseHead(this.#bytes.subarray(0, lf)), start: next + 1 };
    }
  }

  #find(byte) { // the position of `byte` from #scan on; remembers how far it has looked
    const found = this.#bytes.subarray(0, this.#end).indexOf(byte, this.#scan);
    this.#scan = found === -1 ? this.#end : found;
    return found;
  }

  #drop(count) {
    this.#bytes.copyWithin(0, count, this.#end);
    this.#end -= count;
    this.#scan = 0;
    this.#head = null;
  }
}

/** The time in a header `reconnect`, such as `5s`; 0 for all else. */
const seconds = (reconnect) => Number(/^(\d+)s$/.exec(reconnect)?.[1] ?? 0);

function parseHead(bytes) {
  // ignoreBOM: a header's text is taken as it is. Values are never trimmed: blanks are theirs.
  const lines = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes).split('\n')
    .map((line) => line.replace(/\r$/, '')); // exactly one CR belongs to the line end
  const command = lines.shift();
  const decode = command === 'CONNECTED' ? (text) => text : unescape;
  const headers = Object.create(null); // no prototype: a header may be called "constructor"
  for (const line of lines) {
    const colon = line.indexOf(':');
    if (colon === -1) throw new Error(`header line without a colon: ${line}`);
    const name = decode(line.slice(0, colon));
    if (!(name in headers)) headers[name] = decode(line.slice(colon + 1));
  }
  return { command, headers };
}

/**
 * A connection that heals itself: it reconnects with back-off and subscribes again.
 *
 * Callbacks (all optional): `connectHeaders()` with further headers of each CONNECT;
 * `onState(state, detail)` with `connecting`, `connected`, `waiting` (detail.delay in ms), `refused` (the
 * server does not let this user in: no retry, for the same password is refused again), `ended` (the
 * server ended the session and does not want it back: somebody was kicked, or logged in elsewhere) or
 * `disconnected`; `onError(frame)` for each ERROR; `onFrame(direction, frame)` with `in` or `out` for a
 * log: it never sees the passcode.
 */
export class StompClient {
  #options;
  #socket = null;
  #state = 'disconnected';
  #subscriptions = new Map(); // id -> { destination, headers, onMessage, receipt, settle }
  #receipts = new Map(); // receipt id -> { resolve, reject }
  #lastId = 0;
  #attempt = 0;
  #leaving = false;
  #timers = []; // heart-beats of this connection
  #lastReceived = 0;
  #retry = null;

  constructor(options) {
    this.#options = { host: '/', heartbeat: [10_000, 10_000], backoff: [500, 20_000], ...options };
  }

  get state() {
    return this.#state;
  }

  connect() {
    clearTimeout(this.#retry);
    if (this.#socket) return;
    this.#become('connecting');
    const { url, host, login, passcode, heartbeat, connectHeaders } = this.#options;
    const socket = new WebSocket(url, ['v12.stomp']);
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    const parser = new FrameParser();
    socket.onopen = () => this.#write('CONNECT', {
      'accept-version': '1.2', host, login, passcode, 'heart-beat': heartbeat.join(','), ...connectHeaders?.(),
    });
    socket.onmessage = ({ data }) => {
      this.#lastReceived = performance.now(); // any byte is a sign of life, also in mid-frame
      try {
        for (const frame of parser.push(data)) if (socket === this.#socket) this.#handle(frame);
      } catch (error) { // the stream cannot be understood any more: start afresh
        console.error('STOMP:', error);
        this.#lost(error.message);
      }
    };
    socket.onclose = ({ reason }) => this.#lost(reason || 'the connection was lost');
  }

  /** An orderly end: the RECEIPT proves that the server has processed all that went before. */
  async disconnect() {
    clearTimeout(this.#retry);
    if (this.#state === 'connected') {
      this.#leaving = true;
      const answered = this.#request('DISCONNECT', {}).catch(() => {});
      await Promise.race([answered, new Promise((resolve) => { setTimeout(resolve, 1000); })]);
    }
    this.#leaving = false;
    this.#detach('disconnected on request');
    this.#become('disconnected');
  }

  /**
   * Subscribes now, or as soon as connected, and again after each reconnect. Await `.ready` to know
   * that from here on nothing is missed; it rejects if the server refuses.
   */
  subscribe(destination, onMessage, headers = {}) {
    const id = `sub-${this.#lastId += 1}`;
    const subscription = { destination, onMessage, headers };
    const ready = new Promise((resolve, reject) => { subscription.settle = { resolve, reject }; });
    ready.catch(() => {}); // also reported through onError: not an unhandled rejection
    this.#subscriptions.set(id, subscription);
    if (this.#state === 'connected') this.#sendSubscribe(id, subscription);
    const unsubscribe = () => {
      if (this.#subscriptions.delete(id) && this.#state === 'connected') this.#write('UNSUBSCRIBE', { id });
    };
    return { id, destination, ready, unsubscribe };
  }

  /** Resolves at the RECEIPT; rejects on an ERROR, or if the connection ends before (outcome unknown). */
  send(destination, body, headers = {}) {
    if (this.#state !== 'connected') return Promise.reject(new Error('not connected'));
    const type = body instanceof Uint8Array ? 'application/octet-stream' : 'text/plain;charset=utf-8';
    return this.#request('SEND', { destination, 'content-type': type, ...headers }, body);
  }

  // For subscriptions with `ack: 'client'` or `'client-individual'`; a message brings its `ack` id.
  ack(message) { this.#write('ACK', { id: message.headers.ack }); }
  nack(message) { this.#write('NACK', { id: message.headers.ack }); }

  #handle(frame) {
    this.#options.onFrame?.('in', frame);
    const { command, headers } = frame;
    if (command === 'CONNECTED') {
      this.#attempt = 0;
      this.#startHeartbeats(headers['heart-beat']);
      this.#become('connected', { headers });
      for (const [id, subscription] of this.#subscriptions) this.#sendSubscribe(id, subscription);
    } else if (command === 'MESSAGE') {
      this.#subscriptions.get(headers.subscription)?.onMessage(frame);
    } else if (command === 'RECEIPT') {
      this.#settle(headers['receipt-id'], 'resolve', frame);
    } else if (command === 'ERROR') {
      this.#handleError(frame);
    }
  }

  #handleError(frame) {
    const { message: reason = 'the server reported an error', reconnect, 'receipt-id': receipt } = frame.headers;
    const isLogin = this.#state === 'connecting';
    // A server that gives no advice: what it refused, it will refuse again. And only the user can renew.
    const isFinal = ['no', 'renew', undefined].includes(reconnect);
    // A request that was refused is given up, so that the next session does not repeat it: it may begin.
    const isRequest = this.#settle(receipt, 'reject', Object.assign(new Error(reason), { lost: !isFinal }));
    this.#options.onError?.(frame);
    const isOver = isFinal && (isLogin || (reconnect !== undefined && !isRequest));
    if (!isOver) return this.#lost(reason, seconds(reconnect)); // do not wait for the close that must follow
    this.#detach(reason);
    return this.#become(isLogin ? 'refused' : 'ended', { reason });
  }

  #sendSubscribe(id, { destination, headers, settle }) {
    const refused = (error) => { // asking again after each reconnect would only repeat the ERROR
      if (error.lost) return;
      this.#subscriptions.delete(id);
      settle.reject(error);
    };
    this.#request('SUBSCRIBE', { id, destination, ...headers }).then(settle.resolve, refused);
  }

  #request(command, headers, body) {
    const receipt = `receipt-${this.#lastId += 1}`;
    const answer = new Promise((resolve, reject) => this.#receipts.set(receipt, { resolve, reject }));
    this.#write(command, { ...headers, receipt }, body);
    return answer;
  }

  #settle(receipt, how, value) {
    const waiting = this.#receipts.get(receipt);
    this.#receipts.delete(receipt);
    waiting?.[how](value);
    return waiting !== undefined;
  }

  #write(command, headers, body = '') {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#socket.send(encodeFrame(command, headers, body));
    const shown = 'passcode' in headers ? { ...headers, passcode: '••••••' } : headers;
    this.#options.onFrame?.('out', new Frame(command, shown, body instanceof Uint8Array ? body : utf8.encode(body)));
  }

  // Each direction beats at the slower of what its sender offers and its receiver wishes; 0 is "never".
  // Browsers slow the timers of hidden tabs down to one a minute, so servers should be tolerant.
  #startHeartbeats(theirs = '0,0') {
    const [canSend, want] = this.#options.heartbeat;
    const [theySend, theyWant] = theirs.split(',').map(Number);
    if (canSend && theyWant) {
      const beat = () => this.#socket.readyState === WebSocket.OPEN && this.#socket.send('\n');
      this.#timers.push(setInterval(beat, Math.max(canSend, theyWant)));
    }
    if (want && theySend) {
      const limit = 2 * Math.max(want, theySend);
      const check = () => performance.now() - this.#lastReceived > limit && this.#lost('no heart-beat');
      this.#timers.push(setInterval(check, limit / 2));
    }
  }

  #lost(reason, wished = 0) {
    this.#detach(reason);
    if (this.#leaving) return; // this end was wished for
    // Full jitter: after a server's restart its clients must not all return in the same instant.
    const [first, longest] = this.#options.backoff;
    const jitter = Math.random() * Math.min(longest, first * 2 ** this.#attempt);
    const delay = Math.round(Math.max(first / 2, 1000 * wished) + jitter);
    this.#attempt += 1;
    this.#retry = setTimeout(() => this.connect(), delay);
    this.#become('waiting', { delay, reason });
  }

  #detach(reason) {
    this.#timers.splice(0).forEach(clearInterval);
    const socket = this.#socket;
    this.#socket = null;
    if (socket) { // closing a dead socket may take a minute: its late events concern nobody
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    const error = Object.assign(new Error(reason), { lost: true });
    for (const id of [...this.#receipts.keys()]) this.#settle(id, 'reject', error);
  }

  #become(state, detail = {}) {
    this.#state = state;
    this.#options.onState?.(state, detail);
  }
}
