// One connection, from its socket's opening to its end: frames that await a RECEIPT, and whether the
// other side lives. A @stomp/stompjs client serves one connection only, so nothing old meets the next.

import { Problem, isOfOneFrame, problemOfClose, problemOfError } from './advice.js';
import { after } from './pace.js';

const BEAT = 10_000; // milliseconds: RabbitMQ's restart keeps RECEIPTs for as long, where there are no heart-beats
const SILENT = 'the server gave no sign of life';

export class Connection {
  #stomp;
  #socket;
  #events;
  #awaited = new Map(); // receipt -> { resolve, reject, timer }
  #lastReceipt = 0;
  #lastError; // the ERROR behind which the server closes; a sign of life shows that it does not
  #isOver = false;
  #watch; // the timer of a login, a probe or a close
  #prolong; // has a probe begin to wait anew; undefined while there is none
  #beat = BEAT; // milliseconds between two heart-beats of the server
  isOpen = false;
  /** The time since when all subscriptions are answered. */
  levelAt;
  /** Resolves when all that was asked for is answered. */
  answers;

  /**
   * `open(protocols)` makes the WebSocket, and may throw. `events`: `open(frame)`; `message(id, message)`;
   * `error(problem, id)`, where `id` is a subscription's if the ERROR names one; and once `over(problem)`.
   */
  constructor(Stomp, config, open, connectTimeout, events) {
    this.#events = events;
    this.#stomp = new Stomp({
      discardWebsocketOnCommFailure: true, // a dead network does not answer a close
      ...config,
      reconnectDelay: 0,
      webSocketFactory: () => this.#socket,
      onConnect: (frame) => {
        this.#calm();
        this.isOpen = true;
        const promised = Number.parseInt(frame.headers['heart-beat'], 10);
        if (promised > 0 && this.#stomp.heartbeatIncoming > 0) this.#beat = Math.max(promised, this.#stomp.heartbeatIncoming);
        events.open(frame);
      },
      onStompError: (frame) => this.#refuse(frame),
      onWebSocketClose: (event) => this.#end(this.#lastError ?? problemOfClose(event, this.isOpen)),
      onHeartbeatReceived: () => this.#hear(),
      onHeartbeatLost: () => {
        this.#end(new Problem('connection-lost', SILENT));
        config.onHeartbeatLost?.();
      },
      onUnhandledMessage: (message) => {
        this.#hear();
        config.onUnhandledMessage?.(message);
      },
      // Not by the library's `watchForReceipt`, which remembers for good what gets none.
      onUnhandledReceipt: (frame) => {
        this.#hear();
        const awaited = this.#take(frame.headers['receipt-id']);
        if (awaited) awaited.resolve(frame);
        else config.onUnhandledReceipt?.(frame); // the application's own
      },
    });
    this.#socket = open(this.#stomp.stompVersions.protocolVersions());
    this.#giveUpIn(connectTimeout, 'the server did not answer in time');
    this.#stomp.activate();
  }

  /** SockJS, which tells its transport once it is open. It would send bytes as `[object ArrayBuffer]`. */
  get isTextOnly() {
    return typeof this.#socket.transport === 'string';
  }

  /** Has `write(stomp, receipt)` send a frame; resolves at its RECEIPT, and rejects with a Problem. */
  request(write, timeout) {
    return new Promise((resolve, reject) => { this.#send(write, resolve, reject, timeout); });
  }

  /** Calls `done(receipt)` or `failed(problem)`, before the next frame is read. */
  subscribe(id, destination, headers, done, failed) {
    const take = (message) => {
      this.#hear();
      this.#events.message(id, message);
    };
    this.#send((stomp, receipt) => stomp.subscribe(destination, take, Object.assign({ receipt }, headers, { id, receipt })), done, failed);
  }

  /**
   * Asks for a sign of life, by a transaction of no content; without one the connection ends. RECEIPTs keep
   * the order of frames, so this one waits for those before it: then any other sign is one, a heart-beat too.
   */
  probe(timeout) {
    if (!this.isOpen || this.#watch) return;
    const patience = this.#awaited.size === 0 ? timeout : Math.max(timeout, 1.5 * this.#beat);
    this.#prolong = () => this.#giveUpIn(patience, SILENT);
    this.#prolong();
    const begin = ({ webSocket, forceBinaryWSFrames }, receipt) => {
      const frames = `BEGIN\ntransaction:${receipt}\nreceipt:${receipt}\n\n\0ABORT\ntransaction:${receipt}\n\n\0`;
      webSocket.send(forceBinaryWSFrames ? new TextEncoder().encode(frames) : frames);
    };
    const calm = () => this.#prolong && this.#calm(); // but not the watch of a close
    this.request(begin).then(calm, ({ fate }) => fate !== 'unsent' && calm());
  }

  /** DISCONNECT, after whose RECEIPT all frames before it are done. */
  async close(timeout) {
    this.#prolong = undefined;
    this.#giveUpIn(timeout, 'the server did not confirm the end in time');
    await this.#stomp.deactivate();
    if (this.#socket.readyState < 2) { // the library had not taken it yet
      this.#socket.onerror = () => {}; // in Node, an error that nobody hears ends the program
      this.#socket.close();
    }
    this.#end(new Problem('closed', 'the client was closed', { next: 'stop' }));
  }

  #send(write, resolve, reject, timeout) {
    const receipt = `receipt-${this.#lastReceipt += 1}`;
    const late = () => this.#take(receipt)?.reject(new Problem('no-receipt', 'the server did not confirm in time', { fate: 'unknown' }));
    this.#awaited.set(receipt, { resolve, reject, timer: timeout && after(timeout, late) });
    try {
      if (this.#socket.readyState > 1) throw new Error('the socket is closing'); // it drops what it gets
      write(this.#stomp, receipt);
    } catch (cause) { // or a header is no text
      this.#take(receipt)?.reject(new Problem('unsent', 'the frame was not sent', { fate: 'unsent', cause }));
    }
  }

  #giveUpIn(timeout, why) {
    clearTimeout(this.#watch);
    this.#watch = after(timeout, () => {
      this.#end(new Problem('connection-lost', why));
      this.#stomp.deactivate({ force: true });
    });
  }

  #calm() {
    clearTimeout(this.#watch);
    this.#watch = undefined;
    this.#prolong = undefined;
  }

  #hear() {
    this.#lastError = undefined;
    this.#prolong?.();
  }

  #refuse({ headers, body }) {
    // The receipt of a frame that is too large as a whole is not read: it is of the only one that is awaited.
    const isTooLarge = this.isOpen && headers['error-code'] === 'frame-too-large';
    const [only] = isTooLarge && this.#awaited.size === 1 ? this.#awaited.keys() : [];
    const { 'receipt-id': receipt = only, subscription } = headers;
    const awaited = this.#take(receipt);
    this.#prolong?.();
    const isRequest = this.isOpen && isOfOneFrame(headers);
    const problem = problemOfError({ headers: { ...headers, 'receipt-id': receipt }, body }, isRequest || !this.isOpen ? 'stop' : 'retry');
    // A session may begin anew without the request that was refused.
    const { code, message, detail, next } = problem;
    this.#lastError = isRequest && next === 'stop' ? new Problem(code, message, { detail }) : problem;
    this.#events.error(problem, awaited ? undefined : subscription);
    awaited?.reject(problem);
  }

  #end(problem) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.isOpen = false;
    this.#calm();
    for (const receipt of [...this.#awaited.keys()]) {
      const lost = new Problem('connection-lost', 'the connection ended before the server confirmed', { fate: 'unknown', cause: problem });
      this.#take(receipt).reject(lost);
    }
    this.#events.over(problem);
  }

  #take(receipt) {
    const awaited = this.#awaited.get(receipt);
    this.#awaited.delete(receipt);
    clearTimeout(awaited?.timer);
    return awaited;
  }
}
