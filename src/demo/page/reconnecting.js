// A client that comes back: @stomp/stompjs (the global StompJs), with the server's advice on
// reconnecting, and with promises for receipts.
//
//   const client = new ReconnectingClient({ url: 'ws://localhost:15674/ws', login: 'alice', passcode: '…' });
//   client.connect();
//   const feed = client.subscribe('/exchange/feed/user_alice', (message) => show(message.body));
//   await client.send('/exchange/feed/user_bob', 'hello');   // resolves once the broker has it
//   feed.unsubscribe();
//
// An ERROR is always the last frame: the server closes behind it. Stentor's ERROR says in the header
// `reconnect` whether to come back: `no`; `renew`, which means "only with other credentials"; or a time
// such as `5s`.

const { Client, FrameImpl, Parser, Versions } = globalThis.StompJs;

/** The pause after a first failure and the longest one, in milliseconds. */
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 20_000;

/** The time in a header `reconnect`, such as `5s`; 0 for all else. */
const seconds = (reconnect) => Number(/^(\d+)s$/.exec(reconnect)?.[1] ?? 0);

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
export class ReconnectingClient {
  #options;
  #client;
  #state = 'disconnected';
  #subscriptions = new Map(); // id -> { destination, headers, onMessage, settle }
  #receipts = new Map(); // receipt id -> { resolve, reject }
  #lastId = 0;
  #failures = 0; // since the last CONNECTED
  #error = {}; // of this connection: { reason, pause }
  #delay = 0; // before the next connection

  constructor(options) {
    this.#options = { heartbeat: [10_000, 10_000], ...options };
    const [heartbeatOutgoing, heartbeatIncoming] = this.#options.heartbeat;
    this.#client = new Client({
      stompVersions: new Versions([Versions.V1_2]),
      heartbeatOutgoing,
      heartbeatIncoming,
      reconnectDelay: 1, // beforeConnect waits instead
      webSocketFactory: () => this.#open(),
      beforeConnect: () => this.#prepare(),
      onConnect: ({ headers }) => this.#begin(headers),
      onStompError: (frame) => this.#refuse(frame),
      onWebSocketClose: ({ reason }) => this.#lose(reason),
    });
  }

  get state() {
    return this.#state;
  }

  connect() {
    this.#delay = 0;
    this.#client.activate();
  }

  /** An orderly end: the RECEIPT proves that the server has processed all that went before. */
  async disconnect() {
    await this.#client.deactivate();
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
      if (this.#subscriptions.delete(id) && this.#state === 'connected') this.#client.unsubscribe(id);
    };
    return { id, destination, ready, unsubscribe };
  }

  /** Resolves at the RECEIPT; rejects on an ERROR, or if the connection ends before (outcome unknown). */
  send(destination, body, headers = {}) {
    if (this.#state !== 'connected') return Promise.reject(new Error('not connected'));
    return this.#request((receipt) => this.#client.publish({
      destination, body, headers: { 'content-type': 'text/plain;charset=utf-8', ...headers, receipt },
    }));
  }

  async #prepare() {
    if (this.#delay > 0) await new Promise((resolve) => { setTimeout(resolve, this.#delay); });
    if (!this.#client.active) return;
    const { login, passcode, connectHeaders } = this.#options;
    this.#client.connectHeaders = { host: '/', login, passcode, ...connectHeaders?.() };
    this.#error = {};
    this.#become('connecting');
  }

  // The log reads the frames where they cross the WebSocket.
  #open() {
    const socket = new WebSocket(this.#options.url, this.#client.stompVersions.protocolVersions());
    const [incoming, outgoing] = ['in', 'out'].map((direction) => new Parser((raw) => {
      const frame = FrameImpl.fromRawFrame(raw, true);
      const headers = Object.entries(frame.headers).reverse(); // the library reads them from the last one on
      frame.headers = Object.fromEntries(headers);
      if ('passcode' in frame.headers) frame.headers.passcode = '••••••';
      this.#options.onFrame?.(direction, frame);
    }, () => {}));
    socket.addEventListener('message', ({ data }) => incoming.parseChunk(data));
    const send = socket.send.bind(socket);
    socket.send = (data) => {
      send(data);
      outgoing.parseChunk(data);
    };
    return socket;
  }

  #begin(headers) {
    this.#failures = 0;
    this.#become('connected', { headers });
    for (const [id, subscription] of this.#subscriptions) this.#sendSubscribe(id, subscription);
  }

  #refuse(frame) {
    const { message: reason = 'the server reported an error', reconnect, 'receipt-id': receipt } = frame.headers;
    const isLogin = this.#state === 'connecting';
    // A server that gives no advice: what it refused, it will refuse again. And only the user can renew.
    const isFinal = ['no', 'renew', undefined].includes(reconnect);
    // A request that was refused is given up, so that the next session does not repeat it: it may begin.
    const isRequest = this.#settle(receipt, 'reject', Object.assign(new Error(reason), { lost: !isFinal }));
    this.#error = { reason, pause: 1000 * seconds(reconnect) };
    this.#options.onError?.(frame);
    const isOver = isFinal && (isLogin || (reconnect !== undefined && !isRequest));
    if (!isOver) return; // the close follows
    this.#client.deactivate({ force: true });
    this.#become(isLogin ? 'refused' : 'ended', { reason });
  }

  #lose(closeReason) {
    const { reason = closeReason || 'the connection was lost', pause = 0 } = this.#error;
    const error = Object.assign(new Error(reason), { lost: true });
    for (const receipt of [...this.#receipts.keys()]) this.#settle(receipt, 'reject', error);
    if (!this.#client.active) return; // this end was wished for
    // Full jitter: after a server's restart its clients must not all return in the same instant.
    const jitter = Math.random() * Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures);
    this.#delay = Math.round(Math.max(FIRST_PAUSE / 2, pause) + jitter);
    this.#failures += 1;
    this.#become('waiting', { delay: this.#delay, reason });
  }

  #sendSubscribe(id, { destination, onMessage, headers, settle }) {
    const refused = (error) => { // asking again after each reconnect would only repeat the ERROR
      if (error.lost) return;
      this.#subscriptions.delete(id);
      settle.reject(error);
    };
    this.#request((receipt) => this.#client.subscribe(destination, onMessage, { ...headers, id, receipt }))
      .then(settle.resolve, refused);
  }

  /** Has `write` send a frame that asks for a receipt, and promises the RECEIPT. */
  #request(write) {
    const receipt = `receipt-${this.#lastId += 1}`;
    const answer = new Promise((resolve, reject) => this.#receipts.set(receipt, { resolve, reject }));
    this.#client.watchForReceipt(receipt, (frame) => this.#settle(receipt, 'resolve', frame));
    write(receipt);
    return answer;
  }

  #settle(receipt, how, value) {
    const waiting = this.#receipts.get(receipt);
    this.#receipts.delete(receipt);
    waiting?.[how](value);
    return waiting !== undefined;
  }

  #become(state, detail = {}) {
    this.#state = state;
    this.#options.onState?.(state, detail);
  }
}
