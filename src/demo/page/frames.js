// A WebSocket whose frames can be looked at: for the page's log, which shows the protocol as it is.

const { FrameImpl, Parser } = globalThis.StompJs;

/** `onFrame(direction, frame)`, with `in` or `out`, for each frame where it crosses the WebSocket. It never sees the passcode. */
export function shownSocket(url, protocols, onFrame) {
  const socket = new WebSocket(url, protocols);
  const [incoming, outgoing] = ['in', 'out'].map((direction) => new Parser((raw) => {
    const frame = FrameImpl.fromRawFrame(raw, true);
    const headers = Object.entries(frame.headers).reverse(); // the library reads them from the last one on
    frame.headers = Object.fromEntries(headers);
    if ('passcode' in frame.headers) frame.headers.passcode = '••••••';
    onFrame(direction, frame);
  }, () => {}));
  socket.addEventListener('message', ({ data }) => incoming.parseChunk(data));
  const send = socket.send.bind(socket);
  socket.send = (data) => {
    send(data);
    outgoing.parseChunk(data);
  };
  return socket;
}
