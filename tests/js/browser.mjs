// Chromium, driven through playwright-core. A page of its own holds @stomp/stompjs as its bundle
// for browsers; other pages (the demo) are looked at as they are.
// Orders: open, and then those of stompjs.mjs; or goto, fill, click, text, read, count, evaluate,
// screenshot, close.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

import { chromium } from 'playwright-core';

import { obey, tell } from './remote.mjs';

const bundle = await readFile(createRequire(import.meta.url).resolve('@stomp/stompjs'));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
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

/** Runs in the page. */
function start(order) {
  window.subscriptions = new Map();
  window.client = new StompJs.Client({
    brokerURL: order.url,
    connectHeaders: { login: order.login, passcode: order.passcode, host: order.host },
    heartbeatIncoming: order.heartBeat ?? 0,
    heartbeatOutgoing: order.heartBeat ?? 0,
    reconnectDelay: 0,
    onConnect: (frame) => tell('connected', { version: client.connectedVersion, headers: frame.headers }),
    onUnhandledReceipt: (frame) => tell('receipt', { id: frame.headers['receipt-id'] }),
    onStompError: (frame) => tell('error', { headers: frame.headers, body: frame.body }),
    onWebSocketClose: ({ code, reason }) => tell('closed', { code, reason }),
    onHeartbeatReceived: () => tell('heartbeat'),
  });
  client.activate();
}

await page.exposeFunction('tell', tell);

await obey({
  /** A blank page from a server of its own: so the WebSocket comes from another origin. */
  async open() {
    const server = createServer((_, response) => {
      response.setHeader('content-type', 'text/html');
      response.end('<!doctype html><title>test</title>');
    });
    await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
    const origin = `http://127.0.0.1:${server.address().port}`;
    await page.goto(origin);
    await page.addScriptTag({ content: bundle.toString() });
    tell('opened', { origin });
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
  send: (order) =>
    page.evaluate(({ destination, headers = {}, body = '' }) => client.publish({ destination, headers, body }), order),
  async disconnect() {
    await page.evaluate(() => client.deactivate());
    tell('disconnected');
  },

  async goto({ url }) {
    const response = await page.goto(url);
    tell('loaded', { status: response.status(), title: await page.title() });
  },
  fill: ({ selector, text }) => page.fill(selector, text),
  click: ({ selector }) => page.click(selector),
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
  async screenshot({ path }) {
    await page.screenshot({ path, fullPage: true });
    tell('taken', { path });
  },
  async close() {
    await browser.close();
    tell('gone');
  },
});
