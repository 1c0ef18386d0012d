import type { Client, IMessage, StompConfig, StompHeaders } from '@stomp/stompjs';

/**
 * Something that went wrong, in the server's words or in the client's.
 *
 * The server's codes are in docs/errors.md of Stentor. The client's own: `connection-lost`, `closed-1002`,
 * `closed-1008`, `closed-1009` (a close without an ERROR), `no-receipt`, `not-connected`, `unsent`, `text-only`,
 * `no-socket`, `no-storage`, `token-unavailable`, `no-token`, `no-delta-base`, `bad-delta`, `unsubscribed`, `closed`.
 */
export class Problem extends Error {
  readonly name: 'Problem';
  /** For programs: `permission-denied`, for example. */
  readonly code: string;
  /** Further words of the server; may be empty. */
  readonly detail: string;
  /** `retry`: the same may succeed later. `renew`: only with other credentials. `stop`: never. */
  readonly next: 'retry' | 'renew' | 'stop';
  /** With `retry`: not before so many seconds have passed. */
  readonly seconds: number;
  /**
   * Of a frame: the server has `refused` it; or it is `unknown` whether it was done; or it is `unsent`.
   * Undefined where the problem is no single frame's.
   */
  readonly fate?: 'refused' | 'unknown' | 'unsent';
  /** With `resume-gap`: `expired`, `replaced`, `ahead` or `too-large`. */
  readonly reason?: string;
}

/**
 * `idle`: before connect(). `connecting`, `connected`: as they say. `waiting`: it will connect again.
 * `ended`: it will not, for the server refused it for good. `closed`: by close().
 */
export type State = 'idle' | 'connecting' | 'connected' | 'waiting' | 'ended' | 'closed';

export interface StateDetail {
  /** With `connected`: the headers of CONNECTED. */
  headers?: StompHeaders;
  /** With `waiting`: milliseconds until it connects. */
  delay?: number;
  /** With `waiting` and `ended`: the reason. */
  problem?: Problem;
}

export interface TokenOrder {
  /** `refused`: the server did not accept the last token, so fetch a new one and do not take a stored one. */
  reason: 'connect' | 'renew' | 'refused';
  /** Aborted when nobody waits for the token any more. */
  signal: AbortSignal;
}

export interface Options {
  /** `wss://push.example.com/ws`. */
  url?: string;
  /** Instead of `url`: makes the socket; for Node before 22, or SockJS. */
  webSocketFactory?: (protocols: string[]) => unknown;
  /** Headers of each CONNECT: `login`, `passcode`, `host`, `device-type`, `device-id` … */
  headers?: StompHeaders;
  /**
   * Gives a token, which becomes the `passcode`: before each connecting, and before the session ends. A throw,
   * a time-out or a text with control characters is tried again; null or undefined ends the client, with the
   * problem `no-token`.
   */
  getToken?: (order: TokenOrder) => string | null | undefined | Promise<string | null | undefined>;
  onState?: (state: State, detail: StateDetail) => void;
  /** Each ERROR, and each failure of getToken: for logs. */
  onProblem?: (problem: Problem) => void;
  /** Further settings of @stomp/stompjs: heart-beats, `debug`, `splitLargeFrames` … */
  stomp?: Omit<StompConfig, 'brokerURL' | 'webSocketFactory' | 'connectHeaders' | 'reconnectDelay' | 'beforeConnect'
    | 'onConnect' | 'onStompError' | 'onWebSocketClose' | 'onHeartbeatReceived'>;
  /** Milliseconds from the socket's making to CONNECTED. 20,000 by default. */
  connectTimeout?: number;
  /** Milliseconds for getToken, and for a renewal's RECEIPT. 10,000. */
  tokenTimeout?: number;
  /** Milliseconds until a message without RECEIPT is of unknown fate. 60,000. */
  publishTimeout?: number;
  /** Milliseconds for the sign of life after waking. 5,000; while frames are not confirmed, more than heart-beats need. */
  probeTimeout?: number;
  /** Milliseconds for the RECEIPT of DISCONNECT. 5,000. */
  closeTimeout?: number;
  /** SUBSCRIBE frames; the gateway's `limits.max_subscribes_per_second`. 200. */
  subscribesPerSecond?: number;
  /** The class `Client` of @stomp/stompjs. Needed with `stentor-client/client.js` only. */
  Stomp?: typeof Client;
}

export interface Resume {
  /**
   * If missed messages are not kept any more. `next` (the default): onGap is called, and the subscription goes on
   * with what comes. `earliest`: with what is still there. `fail`: it ends, with the problem `resume-gap`.
   */
  gap?: 'next' | 'earliest' | 'fail';
  /** `sessionStorage`, `localStorage`, or the like: a reload of the page misses nothing either. */
  storage?: Pick<Storage, 'getItem' | 'setItem'>;
  /** Where a subscription without a cursor begins: `{ last: 50 }` messages, or `{ since: '2h' }`. By default with new ones. */
  begin?: { last?: number | string } | { since?: string };
  /** The name in `storage`. By default of `headers.host`, `headers.login` and the destination; needed where there is no login, or another subscription has that name. */
  key?: string;
}

/**
 * Why messages are missing. `expired`: the server has kept them for as long as it is told to. `replaced`, `ahead`:
 * its journal was deleted and made anew. `too-large`: a message is larger than the server takes. `foreign`: the stored
 * cursor is another exchange's. `no-journal`: the server keeps none of this destination.
 */
export type GapReason = 'expired' | 'replaced' | 'ahead' | 'too-large' | 'foreign' | 'no-journal';

export interface SubscribeOptions {
  /** Headers of SUBSCRIBE: `id`, `ack`, `selector` … They are the same after each reconnect. */
  headers?: StompHeaders;
  /** Catches up after a reconnect: needs an exchange with a journal at the server. */
  resume?: boolean | Resume;
  /**
   * Messages of 64 bytes to 16 KiB come as differences to the last one of their destination, where that is shorter, and
   * onMessage gets them whole. If one cannot be read, onProblem is told (`no-delta-base`, `bad-delta`), and the
   * subscription begins anew without: onLive(true) follows.
   */
  delta?: boolean;
  /**
   * The subscription is live: from here on no message is missed, until the connection ends. `again` is true
   * after a reconnect: without `resume` load the state anew, for messages may have been missed.
   */
  onLive?: (again: boolean) => void;
  /** With `resume`: nothing was missed. So many messages came, or `more` are still on their way. Before onLive. */
  onResumed?: (resumed: { missed: number | 'more' }) => void;
  /** With `resume`: messages are missing (of the history of `begin`, too), so load the state anew: what is published from here on comes. Before onLive. */
  onGap?: (reason: GapReason) => void;
  /** This subscription was refused. With `next` `retry` it is tried again; else it is gone. */
  onProblem?: (problem: Problem) => void;
  /** Ends the subscription, also before it is live. */
  signal?: AbortSignal;
}

export interface Subscription {
  readonly id: string;
  readonly destination: string;
  /**
   * Resolves when the server has ended it, or the connection is over. With `headers` (`{ durable: 'true' }` deletes the
   * queue of a durable subscription) it resolves only when the server has confirmed: if need be, the next connection
   * subscribes once more, and leaves. Rejects with a Problem if the server refuses for good, or the client ends first.
   */
  unsubscribe(headers?: StompHeaders): Promise<void>;
}

export type Status = 'online' | 'away' | 'busy' | 'invisible';

export interface PresenceEvent {
  type: 'join' | 'leave' | 'status';
  user: string;
  status: string;
  previous?: string;
  at: string;
}

/** A client of Stentor that comes back as the server advises. */
export class StentorClient {
  constructor(options: Options);
  readonly state: State;
  /** Connects, and stays connected. Resolves at the first CONNECTED; rejects with a Problem if it ends before. */
  connect(): Promise<void>;
  /**
   * Resolves when the subscription is live; rejects with a Problem if it is refused for good, and with a TypeError
   * if the options are a mistake: an `id` or a `resume.key` that another subscription has, say.
   */
  subscribe(destination: string, onMessage: (message: IMessage) => void, options?: SubscribeOptions): Promise<Subscription>;
  /** Resolves at the RECEIPT. Rejects with a Problem that has a `fate`. Nothing is sent twice. Over SockJS `body` is a string. */
  publish(destination: string, body?: string | Uint8Array, headers?: StompHeaders): Promise<unknown>;
  /**
   * The user's availability on this device; each later login says it, too. Resolves when the server has confirmed it,
   * by a RECEIPT or at the next login; before connect() and after the end, at once. Rejects with a Problem if the
   * server refuses it; or if the connection (`fate` `unknown` or `unsent`) or the client ends before: the next login
   * says it all the same. Do not await it in `getToken`, for which the login waits.
   */
  setStatus(status: Status): Promise<void>;
  /** `key` is `user.NAME`, `group.NAME`, or a pattern of these; `exchange` is the gateway's `presence.exchange`. */
  watchPresence(key: string, onEvent: (event: PresenceEvent) => void, options?: SubscribeOptions & { exchange?: string }): Promise<Subscription>;
  /** Looks at once whether the connection lives. Browsers' events do so; call it where there are none. */
  wake(): void;
  /** An orderly end: messages that were published before are confirmed. Forgets all subscriptions. */
  close(): Promise<void>;
}
