// The page of 2014: stompjs 2.3.3 over SockJS, one user who listens and one who sends.
'use strict';

const transports = [...document.querySelectorAll('#transport optgroup option')].map((option) => option.value);
const banner = document.getElementById('banner');
const url = document.getElementById('url');
const transport = document.getElementById('transport');

/**
 * How long to wait before the next try, in milliseconds. The server says in each ERROR, in the header
 * `reconnect`, whether to come back: `no`; `renew`, which is: only with other credentials; or a time such
 * as `5s`. To that comes a random part, which grows from 1 s to 30 s: the pages of a server that was
 * restarted must not all come back in one instant.
 */
const pause = (wish, failures) => 1000 * (parseInt(wish, 10) || 0) + Math.random() * Math.min(30_000, 1000 * 2 ** failures);

/** One side of the page: a connection of its own, its state, and its errors. */
class Pane {
  constructor(id, onConnect) {
    this.element = document.getElementById(id);
    this.onConnect = onConnect;
    this.failures = 0;
    this.state = this.element.querySelector('.state span');
    this.error = this.element.querySelector('.error');
  }

  value(name) {
    return this.element.querySelector(`[name=${name}]`).value;
  }

  connect() {
    this.leave();
    this.say('idle', 'connecting …');
    const socket = new SockJS(url.value, null, { transports: chosen() });
    const client = Stomp.over(socket);
    client.debug = null;
    // SockJS has heart-beats of its own, so these were usually switched off.
    client.heartbeat.outgoing = 0;
    client.heartbeat.incoming = 0;
    this.client = client;
    let wish = ''; // what an ERROR says about coming back
    let toldAt = 0; // when it came
    client.connect(this.value('login'), this.value('passcode'), () => {
      this.failures = 0;
      this.fail('');
      this.say('connected', `connected by ${socket.transport}`);
      this.onConnect(client, this);
    }, (problem) => {
      // The old library calls this for an ERROR, and, with a text, when the socket closes.
      if (client !== this.client || problem.command !== 'ERROR') return;
      this.fail(`${problem.headers.message}: ${problem.body}`);
      // Only that subscription has ended; the connection stays.
      if (problem.headers.subscription) return;
      [wish, toldAt] = [problem.headers.reconnect ?? 'no', Date.now()];
    }, '/');
    socket.addEventListener('close', ({ code, reason }) => {
      if (client !== this.client) return;
      if (Date.now() - toldAt > 5_000) wish = ''; // the connection went on: that was about one frame
      if (wish === 'no' || wish === 'renew') {
        this.say('refused', 'refused');
        return;
      }
      this.say('idle', `not connected: ${reason || `code ${code}`}; trying again …`);
      this.again = setTimeout(() => this.connect(), pause(wish, this.failures));
      this.failures += 1;
    });
  }

  /** Without a word: the server notices when the socket closes, or is polled no more. */
  leave() {
    clearTimeout(this.again);
    const { client } = this;
    this.client = null;
    client?.ws.close();
  }

  say(state, text) {
    this.element.dataset.state = state;
    this.state.textContent = text;
    for (const button of this.element.querySelectorAll('button')) button.disabled = state === 'idle' || state === 'refused';
  }

  fail(text) {
    this.error.textContent = text;
    this.error.hidden = text === '';
  }
}

const listener = new Pane('listener', (client, pane) => {
  const destination = pane.value('destination');
  client.onreceipt = () => pane.say('live', `subscribed, by ${client.ws.transport}`);
  client.subscribe(destination, (message) => {
    const item = document.createElement('li');
    const from = document.createElement('b');
    from.textContent = message.headers['x-stomp-user'] ?? 'a backend';
    item.append(from, message.body);
    document.querySelector('.messages').prepend(item);
  }, { receipt: 'subscribed' });
});

const sender = new Pane('sender', (client, pane) => {
  client.onreceipt = () => pane.say('live', `the broker has it, by ${client.ws.transport}`);
});

document.querySelector('.send').addEventListener('submit', (event) => {
  event.preventDefault();
  const body = document.getElementById('body').value;
  sender.fail('');
  sender.say('connected', 'sending …');
  sender.client.send(sender.value('destination'), { 'content-type': 'text/plain', receipt: 'sent' }, body);
});

document.getElementById('server').addEventListener('submit', (event) => {
  event.preventDefault();
  connect();
});
transport.addEventListener('change', connect);

function connect() {
  document.getElementById('shown-url').textContent = url.value;
  listener.connect();
  sender.connect();
}

/** What SockJS may use; it takes the first that works. */
function chosen() {
  if (transport.value === '') return transports;
  if (transport.value === '-websocket') return transports.filter((name) => name !== 'websocket');
  return [transport.value];
}

/** The server that this page came from, if it speaks SockJS; else Stentor's usual port there. */
async function usual() {
  const own = new URL('/stomp', location.href);
  const answer = await fetch(`${own}/info`).catch(() => null);
  if (answer?.ok) return own.href;
  return `${location.protocol}//${location.hostname}:15674/stomp`;
}

async function start() {
  if (location.protocol === 'file:') {
    throw new Error('Open this page by http, not as a file: run “npm start” in its folder, or “stentor demo”.');
  }
  if (!window.SockJS || !window.Stomp) {
    throw new Error('The folder vendor, with SockJS and stompjs, is not beside this page.');
  }
  url.value = new URLSearchParams(location.search).get('url') ?? (await usual());
  connect();
}

start().catch((error) => {
  banner.textContent = error.message;
  banner.hidden = false;
});
