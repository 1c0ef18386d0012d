// A STOMP server for tests of clients: on real WebSockets, with sessions that end as those of tokens do.
import { FrameImpl, Parser } from '@stomp/stompjs';
import { WebSocketServer } from 'ws';

import { encodeFrame } from './fake-socket.mjs';

/** Answers each frame that asks for a RECEIPT. `lifetime` is a session's, in seconds; `frames` are all that came. One that `isMute` answers no login. */
export async function serve({ lifetime, isMute = false } = {}) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => 'v12.stomp' });
  await new Promise((listening) => { server.once('listening', listening); });
  const frames = [];
  const expiry = lifetime ? { 'expires-in': String(lifetime) } : {};
  server.on('connection', (socket) => {
    const say = (...frame) => socket.send(encodeFrame(...frame));
    let end;
    const live = () => {
      clearTimeout(end);
      if (!lifetime) return;
      end = setTimeout(() => {
        say('ERROR', { message: 'token expired', 'error-code': 'token-expired', reconnect: 'renew' });
        socket.close(1008);
      }, lifetime * 1_000);
    };
    socket.on('close', () => clearTimeout(end));
    const parser = new Parser((raw) => {
      const { command, headers, body } = FrameImpl.fromRawFrame(raw, true);
      frames.push({ command, headers, body });
      if (isMute) return;
      const isRenewal = headers.destination === '/auth/renew';
      if (command === 'CONNECT') say('CONNECTED', { version: '1.2', 'heart-beat': '0,0', ...expiry });
      if (command === 'CONNECT' || isRenewal) live();
      if (headers.receipt) say('RECEIPT', { 'receipt-id': headers.receipt, ...(isRenewal && expiry) });
      if (command === 'DISCONNECT') socket.close();
    }, () => {});
    socket.on('message', (data) => parser.parseChunk(String(data)));
  });
  const until = async (condition) => {
    for (let turn = 0; turn < 1_500 && !condition(frames); turn += 1) await new Promise((go) => { setTimeout(go, 10); });
    if (!condition(frames)) throw new Error(`in vain: ${JSON.stringify(frames)}`);
  };
  const close = () => {
    for (const socket of server.clients) socket.terminate();
    server.close();
  };
  return { url: `ws://127.0.0.1:${server.address().port}/ws`, frames, server, until, close };
}
