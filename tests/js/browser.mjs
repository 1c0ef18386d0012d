// Chromium, driven through playwright-core. A page of its own holds @stomp/stompjs, stompjs 2.3.3
// and sockjs-client as their bundles for browsers; other pages (the demo) are looked at as they are.
// Orders: open, and then those of stompjs.mjs, and hide; or goto, reload, offline, fill, select, click, text,
// read, count, press, dress, examine, evaluate, resize, screenshot, close.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

import { chromium } from 'playwright-core';

import { obey, tell } from './remote.mjs';

const { resolve } = createRequire(import.meta.url);
const axe = await readFile(resolve('axe-core/axe.min.js'), 'utf8');
const sockjs = await readFile(resolve('sockjs-client/dist/sockjs.min.js'), 'utf8');
const bundles = [await readFile(resolve('@stomp/stompjs'), 'utf8'), await readFile(resolve('stompjs/lib/stomp.min.js'), 'utf8')];
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    // A page that a test makes up counts as one of the internet, and the gateway as a private address.
    '--disable-features=LocalNetworkAccessChecks',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});
const page = await browser.newPage();
page.on('console', (message) => tell('console', { level: message.type(), text: message.text() }));
page.on('pageerror', (error) => tell('pageerror', { why: String(error) }));
page.on('requestfailed', (request) => tell('requestfailed', { url: request.url() }));

/** Runs in the page: from here on, both clients are used alike. */
function start({ url, login, passcode, host, heartBeat = 0, old = false, transports, timeout = 20_000 }) {
  window.subscriptions = new Map();
  let socket;
  const open = () => {
    if (url.startsWith('ws')) return (socket = new WebSocket(url, ['v12.stomp', 'v11.stomp', 'v10.stomp']));
    // By itself it gives a transport half a second, which is not much where many tests run at once.
    return (socket = new SockJS(url, null, { transports, timeout }));
  };
  const receipt = (frame) => tell('receipt', { id: frame.headers['receipt-id'] });
  const closed = ({ code, reason }) => tell('closed', { code, reason });
  if (old) {
    window.client = Stomp.over(open());
    socket.addEventListener('close', closed);
    client.heartbeat = { incoming: heartBeat, outgoing: heartBeat };
    client.debug = (line) => line === '<<< PONG' && tell('heartbeat');
    client.onreceipt = receipt;
    client.connect(
      { login, passcode, host },
      ({ headers }) => tell('connected', { version: headers.version, headers, transport: socket.transport }),
      (frame) => frame.command && tell('error', { headers: frame.headers, body: frame.body }),
    );
    window.publish = ({ destination, headers = {}, body = '' }) => client.send(destination, headers, body);
    window.leave = () => new Promise((left) => client.disconnect(left));
    return;
  }
  window.client = new StompJs.Client({
    webSocketFactory: open,
    connectHeaders: { login, passcode, host },
    heartbeatIncoming: heartBeat,
    heartbeatOutgoing: heartBeat,
    reconnectDelay: 0,
    onConnect: ({ headers }) =>
      tell('connected', { version: client.connectedVersion, headers, transport: socket.transport }),
    onUnhandledReceipt: receipt,
    onStompError: ({ headers, body }) => tell('error', { headers, body }),
    onWebSocketClose: closed,
    onHeartbeatReceived: () => tell('heartbeat'),
  });
  window.publish = ({ destination, headers = {}, body = '' }) => client.publish({ destination, headers, body });
  window.leave = () => client.deactivate();
  client.activate();
}

await page.exposeFunction('tell', tell);
// Where the gateway's iframe page is told to find the client, which must be the very same.
await page.route('http://client.test/sockjs.js', (route) =>
  route.fulfill({ contentType: 'text/javascript', body: sockjs }),
);

await obey({
  /**
   * A blank page: from a server of its own, so that it connects to another origin, or as if from
   * below the address `at`. With `blocked`, the page has no WebSocket. `info` is where SockJS is, if the
   * page should be told of it what a server says that allows everybody; `referrer` is the page's
   * policy of what it says of itself. One that `hides` can be told to.
   */
  async open({ at, blocked = false, info, cookie, referrer = 'strict-origin-when-cross-origin', hides = false }) {
    if (hides) await page.clock.install();
    const html = `<!doctype html><meta charset="utf-8"><meta name="referrer" content="${referrer}"><title>test</title>`;
    if (at) {
      await page.route(`${at}/blank.html`, (route) => route.fulfill({ contentType: 'text/html', body: html }));
      await page.goto(`${at}/blank.html`);
    } else {
      const server = createServer((_, response) => {
        response.setHeader('content-type', 'text/html');
        response.end(html);
      });
      await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
      at = `http://127.0.0.1:${server.address().port}`;
      await page.goto(at);
    }
    if (info) {
      await page.route(`${info}/info*`, (route) =>
        route.fulfill({
          contentType: 'application/json',
          headers: { 'access-control-allow-origin': at, 'access-control-allow-credentials': 'true' },
          body: JSON.stringify({ websocket: true, origins: ['*:*'], cookie_needed: false, entropy: 1 }),
        }),
      );
    }
    if (cookie) await page.evaluate((cookie) => (document.cookie = cookie), cookie);
    if (blocked) await page.evaluate(() => delete window.WebSocket);
    for (const content of [sockjs, ...bundles]) await page.addScriptTag({ content });
    tell('opened', { origin: at });
  },
  connect: (order) => page.evaluate(start, order),
  subscribe: (order) =>
    page.evaluate(({ destination, headers = {} }) => {
      const take = (message) => {
        tell('message', { destination: message.headers.destination, headers: message.headers, body: message.body });
        if (headers.ack && headers.ack !== 'auto') message.ack();
      };
      subscriptions.set(destination, client.subscribe(destination, take, headers));
    }, order),
  unsubscribe: (order) =>
    page.evaluate(({ destination, headers = {} }) => {
      subscriptions.get(destination).unsubscribe(headers);
      subscriptions.delete(destination);
    }, order),
  send: (order) => page.evaluate((order) => publish(order), order),
  async disconnect() {
    await page.evaluate(() => leave());
    tell('disconnected');
  },

  /** From here on the page's timers stand still, as those of a hidden page all but do. */
  async hide() {
    await page.clock.pauseAt(Date.now() + 1000);
    tell('hidden');
  },

  async goto({ url }) {
    const response = await page.goto(url);
    tell('loaded', { status: response?.status(), title: await page.title() });
  },
  async reload() {
    await page.reload();
    tell('reloaded');
  },
  /** Whether the page has no network. */
  async offline({ is }) {
    await page.context().setOffline(is);
    tell('network', { is });
  },
  fill: ({ selector, text }) => page.fill(selector, text),
  select: ({ selector, value }) => page.selectOption(selector, value),
  click: ({ selector }) => page.click(selector),
  /** Presses a key, wherever the focus is; tells where it is then. */
  async press({ key }) {
    await page.keyboard.press(key);
    const focus = () => {
      const { tagName, id, textContent } = document.activeElement;
      return { tag: tagName.toLowerCase(), id, text: textContent.trim().slice(0, 40) };
    };
    tell('pressed', { key, focus: await page.evaluate(focus) });
  },
  /** The window's size, and whether its user likes it `light` or `dark`. */
  async dress({ scheme, width, height = 800 }) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height });
    tell('dressed', { scheme });
  },
  /** Tells what axe-core finds fault with, and whether the page is wider than its window. */
  async examine() {
    // Colours that change step by step are none to judge.
    await page.evaluate(() => Promise.all(document.getAnimations().map(({ finished }) => finished.catch(() => {}))));
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
    const faults = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 200)).join(' | ')}`);
    const isTooWide = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
    tell('examined', { faults, isTooWide });
  },
  /** Tells once `text` stands within each element that `selector` finds, `count` of them. */
  async text({ selector, text, count = 1 }) {
    await page.waitForFunction(
      ([selector, text, count]) => {
        const found = [...document.querySelectorAll(selector)];
        return found.length === count && found.every((element) => element.textContent.includes(text));
      },
      [selector, text, count],
    );
    tell('seen', { text });
  },
  /** Tells the text that stands there. */
  async read({ selector }) {
    tell('text', { text: await page.textContent(selector) });
  },
  async count({ selector }) {
    tell('counted', { count: await page.locator(selector).count() });
  },
  /** Runs a script in the page, and tells what it answers. */
  async evaluate({ script }) {
    tell('evaluated', { value: await page.evaluate(script) });
  },
  async resize({ width, height }) {
    await page.setViewportSize({ width, height });
    tell('resized');
  },
  /** The whole page, or only the first screen of it. */
  async screenshot({ path, first = false }) {
    await page.screenshot({ path, fullPage: !first });
    tell('taken', { path });
  },
  async close() {
    await browser.close();
    tell('gone');
  },
});
