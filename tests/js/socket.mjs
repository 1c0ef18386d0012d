// What a client in Node talks through: the order's `url` says whether it is a WebSocket (`ws:`) or
// SockJS (`http:`), which may use the order's `transports` only.
import SockJS from 'sockjs-client';
import { WebSocket } from 'ws';

import { tell } from './remote.mjs';

export function open({ url, transports, ca }, protocols) {
  if (url.startsWith('ws')) return new WebSocket(url, protocols, { ca });
  // By itself it gives a transport half a second, which is not much where many tests run at once.
  const socket = new SockJS(url, null, { transports, timeout: 20_000 });
  socket.addEventListener('heartbeat', () => tell('sockjs-heartbeat'));
  return socket;
}
