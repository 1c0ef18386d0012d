// The pure parts of the operator's page: rates, quantiles, alarms, charts, and numbers for people; and what
// it asks while nobody looks, in a document that shows nothing.
import assert from 'node:assert/strict';
import { test } from 'node:test';

const page = '../../src/page';
const { Series, KEPT, bucketsBetween, deliveryHistogram, quantile, speed, speedOfAll, sum } = await import(`${page}/series.js`);
const { alarms } = await import(`${page}/alarms.js`);
const { linksOf } = await import(`${page}/views/overview.js`);
const { bytes, count, delay, duration, moment, plural, rate, shortfall } = await import(`${page}/format.js`);

const node = (at, values, more = {}) => ({
  node: 'a', at: new Date(at * 1000).toISOString(), broker: 'ok', presence: 'ok', phase: 'running', version: '1', sessions: 0, max_connections: 10,
  figures: { values, histograms: {} }, ...more,
});

test('a rate is of one node, between two looks, and not over its restart', () => {
  const [before, after] = [node(0, { x: 10 }), node(2, { x: 20 })];
  assert.equal(speed(before, after, 'x'), 5);
  assert.equal(speed(before, node(2, { x: 3 }), 'x'), undefined);
  assert.equal(speed(undefined, after, 'x'), undefined);
  assert.equal(speed(before, after, 'y'), undefined);
  assert.equal(speed(after, after, 'x'), undefined);
});

test('the rate of all nodes leaves out those that just came', () => {
  const other = { node: 'b' };
  const before = [node(0, { x: 0 })];
  const after = [node(1, { x: 7 }), node(1, { x: 1000 }, other)];
  assert.equal(speedOfAll(before, after, 'x'), 7);
  assert.equal(speedOfAll([], after, 'x'), undefined);
  assert.equal(sum(after, 'x'), 1007);
  assert.equal(sum(after, 'y'), undefined);
});

test('a quantile lies within its bucket, and is nothing where nothing was counted', () => {
  const buckets = [{ le: 1, count: 50 }, { le: 2, count: 100 }, { count: 100 }];
  assert.equal(quantile(0.5, buckets), 1);
  assert.equal(quantile(0.75, buckets), 1.5);
  assert.equal(quantile(0.99, [{ le: 1, count: 0 }, { count: 5 }]), 1);
  assert.equal(quantile(0.5, []), undefined);
  assert.equal(quantile(0.5, [{ le: 1, count: 0 }, { count: 0 }]), undefined);
});

test('buckets between two looks are those of all nodes', () => {
  const histograms = (low, high) => ({ values: {}, histograms: { stentor_delivery_seconds: [{ le: 1, count: low }, { count: high }] } });
  const look = (at, low, high, name) => ({ ...node(at, {}), node: name, figures: histograms(low, high) });
  const before = [look(0, 5, 6, 'a'), look(0, 0, 0, 'b')];
  const after = [look(1, 8, 10, 'a'), look(1, 1, 1, 'b'), look(1, 99, 99, 'new')];
  assert.deepEqual(bucketsBetween(before, after, 'stentor_delivery_seconds'), [{ le: 1, count: 4 }, { le: undefined, count: 5 }]);
  assert.equal(deliveryHistogram(after), 'stentor_delivery_seconds');
  assert.equal(deliveryHistogram([node(0, {})]), undefined);
});

test('a series keeps what a chart shows', () => {
  const series = new Series();
  assert.equal(series.isKnown, false);
  for (let number = 0; number <= 1000; number += 1) series.push(number, number * 2_000);
  series.push(NaN, 2_002_000);
  assert.deepEqual(series.points[0], { at: 2_002_000 - KEPT, value: 851 });
  assert.equal(series.points.length, 151);
  assert.equal(series.last, undefined);
  assert.equal(series.most, 1000);
  // A clock that was put back leaves no points of the future.
  series.push(7, 5_000);
  assert.deepEqual(series.points, [{ at: 5_000, value: 7 }]);
});

test('alarms name the node, and the worst come first', () => {
  const quiet = { nodes: [node(0, { stentor_hook_faults_total: 4 })] };
  assert.deepEqual(alarms(null, quiet), []);
  assert.deepEqual(alarms(quiet, { nodes: [node(2, { stentor_hook_faults_total: 4 })] }), []);
  const bad = {
    nodes: [
      node(2, { stentor_hook_faults_total: 5, process_open_fds: 95, process_max_fds: 100 }, { sessions: 9 }),
      node(2, {}, { node: 'b', broker: 'unreachable', presence: 'unreachable', version: '2', degraded: 'memory: short' }),
      node(2, {}, { node: 'c', not_ready: 'shutting down', presence: 'off' }),
    ],
    silent: ['d'],
  };
  const found = alarms(quiet, bad).map(({ level, node, text }) => `${level} ${node} ${text}`);
  assert.deepEqual(found.filter((line) => line.startsWith('bad')), [
    'bad d does not answer', 'bad b broker: unreachable', 'bad b presence: unreachable', 'bad c not ready: shutting down']);
  assert.ok(found.every((line, index) => line.startsWith('bad') === index < 4), found.join('\n'));
  for (const text of ['calls of the hook', 'as many sessions', 'as many files', 'memory: short', 'several versions: 1, 2']) {
    assert.ok(found.some((line) => line.includes(text)), `${text}: ${found.join('\n')}`);
  }
});

test('numbers are short, and what is not known is a dash', () => {
  assert.deepEqual([count(0), count(20_000), count(12_345_678), count(undefined)], ['0', '20,000', '12.3 M', '–']);
  assert.deepEqual([rate(0), rate(2.34), rate(1234.5), rate(NaN)], ['0', '2.3', '1,235', '–']);
  assert.deepEqual([bytes(0), bytes(1536), bytes(20 * 2 ** 20), bytes(null)], ['0 B', '1.5 KiB', '20 MiB', '–']);
  assert.deepEqual([delay(0.00034), delay(0.0045), delay(0.25), delay(1.5), delay()], ['340 µs', '4.5 ms', '250 ms', '1.5 s', '–']);
  assert.deepEqual([duration(0), duration(59), duration(3600), duration(12_000), duration(180_000)], ['0 s', '59 s', '1 h', '3 h 20 min', '2 d 2 h']);
  assert.deepEqual([plural(1, 'address', 'addresses'), plural(2, 'session')], ['1 address', '2 sessions']);
  assert.equal(moment('no time'), '–');
});

test('an action that did not reach all nodes says so', () => {
  assert.equal(shortfall({ hits: 1, nodes: [] }), '');
  assert.equal(shortfall({ reach: 'all_nodes' }), '');
  assert.equal(shortfall({ reach: 'this_node_only', unreached: 'away' }), ' Only this node holds to it: away');
  assert.equal(shortfall({ reach: 'all_nodes', unreached: 'away' }), ' Others may learn of it later: away');
  assert.equal(shortfall({ unreached: 'away' }), ' Other nodes could not be told: away');
  assert.equal(shortfall({ silent: ['d', 'e'] }), ' No answer came from d, e');
});

/** Says yes to the last question, and resolves to the note that follows. */
async function confirmed(tab) {
  tab.last('form').dispatchEvent(new Event('submit'));
  await settled();
  return tab.last('p').text;
}

test('a kick and the lifting of a ban tell which nodes were not reached', async (context) => {
  const tab = pretend(context);
  document.getElementById = () => tab.root;
  const { kickDialog } = await import(`${page}/views/session.js`);
  const api = { delete: async () => ({ hits: 1, nodes: [], unreached: 'RabbitMQ is away' }) };
  kickDialog(api, { user: 'alice', session: 'one' });
  assert.equal(await confirmed(tab), '1 session of alice told to end. Other nodes could not be told: RabbitMQ is away');

  const { show } = await import(`${page}/views/bans.js`);
  const lifted = { reach: 'this_node_only', unreached: 'RabbitMQ is away', hits: 1, nodes: [] };
  show({ api: { may: () => true, get: async () => ({ bans: [{ user: 'alice' }] }), delete: async () => lifted }, root: tab.root });
  await settled();
  tab.last('button').dispatchEvent(new Event('click'));
  assert.equal(await confirmed(tab), 'alice is not banned any more. Only this node holds to it: RabbitMQ is away');
});

test('an action that got no answer may be done, and is waited for longer than the gateway takes', async (context) => {
  const { Api } = await import(`${page}/api.js`);
  const waits = [];
  context.mock.method(AbortSignal, 'timeout', (milliseconds) => waits.push(milliseconds) && undefined);
  context.mock.method(globalThis, 'fetch', async () => { throw new TypeError('cut'); });
  globalThis.sessionStorage = { getItem: () => null };
  context.after(() => { delete globalThis.sessionStorage; });
  const api = new Api();
  await assert.rejects(api.get('/x'), { message: 'The gateway does not answer.', isAway: true });
  for (const method of ['post', 'delete']) await assert.rejects(api[method]('/x'), { message: /may be done all the same/, isAway: true });
  const [look, ...acts] = waits;
  assert.ok(look <= 20_000 && acts.every((wait) => wait > 60_000), `${waits}`);
});

test('a broker that is away is not taken for one inside the program', () => {
  const links = [{ address: '10.0.0.1:5672', links: 3 }, { address: '10.0.0.2:5672', links: 1 }];
  const [inside, linked, away] = [node(0, {}, { links: [] }), node(0, {}, { links }), node(0, {}, { links: [], broker: 'the broker is not reachable' })];
  assert.deepEqual(linksOf([inside]), ['–', 'embedded broker']);
  assert.deepEqual(linksOf([linked, linked, away]), ['8', '2 addresses']);
  assert.deepEqual(linksOf([away]), ['0', 'no broker']);
});

/** A document without layout, in which elements can be made. `hide` has the tab hidden, or seen again. */
function pretend(context) {
  class Element extends EventTarget {
    isConnected = true;
    value = '';
    text = '';
    parts = [];
    append(...parts) {
      this.parts.push(...parts);
      this.text += parts.filter((part) => typeof part === 'string').join('');
    }
    contains() { return false; }
    getAttribute() { return null; }
    querySelector() { return new Element(); }
    querySelectorAll() { return []; }
    remove() { this.isConnected = false; }
    removeAttribute() {}
    replaceChildren(...parts) { this.parts = parts; }
    setAttribute(name, value) { if (name === 'role') this.role = value; }
    /** All text below it. */
    shown() { return this.parts.map((part) => part.shown?.() ?? part).join(' '); }
    showModal() {}
    close() { this.dispatchEvent(new Event('close')); }
  }
  const made = [];
  const document = Object.assign(new EventTarget(), {
    hidden: false,
    body: new Element(),
    createElement: (tag) => made[made.push(Object.assign(new Element(), { tag })) - 1],
  });
  Object.assign(globalThis, { document, getSelection: () => null });
  context.after(() => { delete globalThis.document; delete globalThis.getSelection; });
  context.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  return {
    last: (tag) => made.findLast((element) => element.tag === tag),
    all: (tag) => made.filter((element) => element.tag === tag),
    hide: async (isHidden) => {
      document.hidden = isHidden;
      document.dispatchEvent(new Event('visibilitychange'));
      await settled();
    },
    /** Seconds go by, one at a time. */
    pass: async (seconds) => {
      for (let second = 0; second < seconds; second += 1) {
        context.mock.timers.tick(1_000);
        await settled();
      }
    },
    root: new Element(),
  };
}

const settled = () => new Promise(setImmediate);

/** An API that counts what it is asked. */
function counting(answers) {
  const asked = [];
  const get = async (path) => {
    asked.push(path);
    return answers(path);
  };
  return { asked, get, may: () => false, serves: async () => false };
}

test('a hidden tab does not ask for refusals, and asks at once when it is seen', async (context) => {
  const tab = pretend(context);
  const { show } = await import(`${page}/views/refusals.js`);
  const api = counting(() => ({ nodes: [] }));
  const { leave } = show({ api, root: tab.root, query: {} });
  await tab.pass(11);
  assert.equal(api.asked.length, 3);
  await tab.hide(true);
  await tab.pass(60);
  assert.equal(api.asked.length, 3);
  await tab.hide(false);
  assert.equal(api.asked.length, 4);
  leave();
  await tab.hide(false);
  await tab.pass(60);
  assert.equal(api.asked.length, 4);
});

test('the panel of a session asks while it is open, seen, and of a session that is there', async (context) => {
  const tab = pretend(context);
  const { showSession } = await import(`${page}/views/session.js`);
  const details = { subscriptions: [] };
  let isThere = true;
  const api = counting(() => {
    if (isThere) return details;
    throw Object.assign(new Error('gone'), { status: 404 });
  });
  const looks = () => api.asked.filter((path) => path.endsWith('/details')).length;
  const open = () => showSession({ api, id: 'one', onclose: () => {} });
  open();
  await tab.pass(5);
  assert.equal(looks(), 3);
  await tab.hide(true);
  await tab.pass(60);
  assert.equal(looks(), 3);
  await tab.hide(false);
  assert.equal(looks(), 4);
  isThere = false;
  await tab.pass(60);
  assert.equal(looks(), 5);
  await tab.hide(false);
  assert.equal(looks(), 5);
  isThere = true;
  open();
  await tab.pass(3);
  assert.equal(looks(), 7);
  tab.last('dialog').close();
  await tab.pass(60);
  assert.equal(looks(), 7);
});

test('the watch looks at the nodes while it is on and seen', async (context) => {
  const tab = pretend(context);
  const { Watch } = await import(`${page}/watch.js`);
  const api = counting(() => ({ nodes: [] }));
  const watch = new Watch(api);
  watch.start();
  await tab.pass(5);
  assert.equal(api.asked.length, 3);
  await tab.hide(true);
  await tab.pass(60);
  await tab.hide(false);
  await tab.pass(1);
  assert.equal(api.asked.length, 4);
  watch.stop();
  await tab.pass(60);
  assert.equal(api.asked.length, 4);
});

/** A node of now. */
const nodeNow = (values, more) => node(Date.now() / 1000, values, more);

test('after an hour in a hidden tab no figure and no alarm is of that hour', async (context) => {
  const tab = pretend(context);
  const { Watch } = await import(`${page}/watch.js`);
  const name = 'stentor_delivery_seconds';
  let [served, faults] = [0, 0];
  const api = counting(() => {
    served += 100;
    const values = { stentor_publishes_total: served, stentor_hook_faults_total: faults };
    return { nodes: [{ ...nodeNow(values), figures: { values, histograms: { [name]: [{ le: 1, count: served }, { count: served }] } } }] };
  });
  const watch = new Watch(api);
  watch.start();
  await tab.pass(5);
  const { p99, published, sessions } = watch.series;
  assert.deepEqual([p99.last, published.last], [0.99, 50]);
  await tab.hide(true);
  [served, faults] = [90_000, 7];
  await tab.pass(3600);
  await tab.hide(false);
  assert.deepEqual([p99.last, published.last, watch.alarms], [undefined, undefined, []]);
  assert.deepEqual(sessions.points.map(({ value }) => value), [undefined, 0], 'older than the chart, and a gap');
  await tab.pass(2);
  assert.deepEqual([p99.last, published.last], [0.99, 50]);
  watch.stop();
});

test('an alarm stays for half a minute, also of a node that was away between', async (context) => {
  const tab = pretend(context);
  const { Watch } = await import(`${page}/watch.js`);
  let [faults, isAway, started] = [0, false, 'first'];
  const others = () => (isAway ? [] : [nodeNow(faults ? { stentor_publish_failures_total: faults } : {}, { node: 'b', started })]);
  const watch = new Watch(counting(() => ({ nodes: [nodeNow({}), ...others()] })));
  const said = () => watch.alarms.map(({ node, text }) => `${node} ${text}`);
  watch.start();
  await tab.pass(3);
  isAway = true;
  await tab.pass(2);
  [isAway, faults] = [false, 5000];
  await tab.pass(2);
  assert.deepEqual(said(), ['b messages are not published']);
  await tab.pass(20);
  assert.deepEqual(said(), ['b messages are not published']);
  await tab.pass(15);
  assert.deepEqual(said(), []);
  // What a node that began anew has counted is not of this half minute alone.
  [faults, started] = [6000, 'again'];
  await tab.pass(2);
  assert.deepEqual(said(), []);
  watch.stop();
});

test('a gateway that does not answer leaves a gap, and no figure stands for now', async (context) => {
  const tab = pretend(context);
  const { Watch } = await import(`${page}/watch.js`);
  let isAway = false;
  const watch = new Watch(counting(() => {
    if (isAway) throw new Error('away');
    return { nodes: [nodeNow({}, { sessions: 3 })] };
  }));
  watch.start();
  isAway = true;
  await tab.pass(3);
  assert.equal(watch.series.sessions.last, undefined);
  isAway = false;
  await tab.pass(5);
  assert.deepEqual(watch.series.sessions.points.map(({ value }) => value), [undefined, 3, undefined, 3]);
  watch.stop();
});

test('a look of before the logout says nothing after the next login', async (context) => {
  const tab = pretend(context);
  const { Watch } = await import(`${page}/watch.js`);
  const answers = [];
  const watch = new Watch({ get: () => new Promise((resolve, reject) => answers.push({ resolve, reject })) });
  watch.start();
  watch.stop();
  watch.start();
  answers[0].reject(new Error('The token does not count.'));
  await settled();
  assert.equal(watch.error, null);
  answers[1].resolve({ nodes: [nodeNow({})], silent: ['d'] });
  await settled();
  assert.equal(watch.alarms.length, 1);
  watch.stop();
  assert.deepEqual(watch.alarms, []);
  await tab.pass(60);
  assert.equal(answers.length, 2);
});

test('a chart is drawn by time: five minutes wide, broken where nothing is known', async () => {
  const { pieces } = await import(`${page}/chart.js`);
  const now = 1_000_000;
  const points = [[400, 9], [300, 1], [150, 2], [140, undefined], [75, 4]].map(([ago, value]) => ({ at: now - ago * 1000, value }));
  assert.deepEqual(pieces(points, 4, now).map((piece) => piece.map(([x]) => x)), [[0, 150], [225]]);
});

test('the first count of a fault with labels is an alarm', () => {
  const alarm = (before, after) => alarms({ nodes: before }, { nodes: after }).map(({ text }) => text);
  for (const name of ['stentor_publish_failures_total', 'stentor_hook_faults_total', 'stentor_limits_exceeded_total', 'stentor_mailbox_overflows_total']) {
    assert.equal(alarm([node(0, {})], [node(2, { [name]: 7 })]).length, 1, name);
    assert.deepEqual(alarm([], [node(2, { [name]: 7 })]), [], 'it was not there before');
    assert.deepEqual(alarm([node(0, {}, { started: 'a' })], [node(2, { [name]: 7 }, { started: 'b' })]), [], 'it began anew');
  }
});

test('a look that throws is followed by the next one', async (context) => {
  const tab = pretend(context);
  const { whileSeen } = await import(`${page}/repeat.js`);
  const said = context.mock.method(console, 'error', () => {});
  let looks = 0;
  const end = whileSeen(async () => {
    looks += 1;
    if (looks === 1) throw new Error('a fault of the page');
    return 1_000;
  });
  await settled();
  assert.equal(said.mock.callCount(), 1);
  await tab.hide(false);
  assert.equal(looks, 2);
  await tab.pass(3);
  assert.equal(looks, 5);
  end();
});

/** Answers that come when they are told to, by what was asked. */
function slow() {
  const waiting = [];
  const get = (path, query) => new Promise((resolve, reject) => waiting.push({ path, query, resolve, reject }));
  return { waiting, get, may: () => true, serves: async () => false };
}

test('a late answer does not stand under another name', async (context) => {
  const tab = pretend(context);
  const { show } = await import(`${page}/views/presence.js`);
  const api = slow();
  show({ api, root: tab.root, query: {} });
  const [input, form, found] = ['input', 'form', 'found'].map((what) => (what === 'found' ? tab.all('div').findLast(({ role }) => role === 'status') : tab.last(what)));
  const lookUp = (name) => {
    input.value = name;
    form.dispatchEvent(new Event('submit'));
  };
  const members = (name) => ({ group: name, online: [{ user: `member of ${name}`, status: 'online' }] });
  for (const end of ['resolve', 'reject']) {
    lookUp('a');
    lookUp('b');
    const [a, b] = api.waiting.slice(-2);
    b.resolve(members('b'));
    await settled();
    a[end](end === 'resolve' ? members('a') : new Error('a is away'));
    await settled();
    assert.match(found.shown(), /member of b/);
    assert.doesNotMatch(found.shown(), /member of a|away/);
  }
  // Nor does an answer of before, while the next one is awaited.
  lookUp('c');
  assert.doesNotMatch(found.shown(), /member of b/);
});

test('a list of bans is the newest one, and a page of it comes once', async (context) => {
  const tab = pretend(context);
  const { show } = await import(`${page}/views/bans.js`);
  const api = slow();
  show({ api: { ...api, delete: async () => ({}) }, root: tab.root });
  document.getElementById = () => tab.root;
  const ban = (user) => ({ user });
  api.waiting[0].resolve({ bans: [ban('a')], next: 'more' });
  await settled();
  const [more, lift] = ['Show more', 'Lift'].map((text) => tab.all('button').findLast((button) => button.text === text));
  more.dispatchEvent(new Event('click'));
  more.dispatchEvent(new Event('click'));
  lift.dispatchEvent(new Event('click'));
  tab.last('form').dispatchEvent(new Event('submit'));
  await settled();
  const [, ...rest] = api.waiting;
  rest.pop().resolve({ bans: [ban('c')] });
  await settled();
  for (const { resolve } of rest) resolve({ bans: [ban('b')] });
  await settled();
  assert.equal(tab.all('table').at(-1).shown().match(/User \w/g).join(), 'User c');
});

test('keys that are pressed while a page of sessions is awaited do not skip pages', async (context) => {
  const tab = pretend(context);
  const { show } = await import(`${page}/views/sessions.js`);
  const api = slow();
  show({ api: { ...api, get: (path, query) => (path.endsWith('/counts') ? Promise.resolve({ sessions: 250, users: 9 }) : api.get(path, query)) }, root: tab.root, query: {} });
  const [back, forth] = ['Previous', 'Next'].map((text) => tab.all('button').find((button) => button.text === text));
  const press = (button) => button.dispatchEvent(new Event('click'));
  const total = tab.all('p').find(({ role }) => role === 'status');
  const answer = async (next, length = 100) => {
    api.waiting.at(-1).resolve({ sessions: Array.from({ length }, (_, index) => ({ user: 'u', session: `${index}`, status: 'online' })), next });
    await settled();
  };
  await answer('second');
  press(forth);
  press(forth);
  assert.equal(api.waiting.length, 2);
  await answer('third');
  assert.equal(total.textContent, '101–200 of 250 sessions of 9 users');
  press(back);
  press(back);
  await answer('second');
  assert.equal(total.textContent, '1–100 of 250 sessions of 9 users');
  // All of the second page have ended meanwhile; others are connected.
  press(forth);
  await answer(undefined, 0);
  assert.doesNotMatch(tab.all('p').at(-1).text, /Nobody/);
});

test('a name that a path cannot hold is refused', async () => {
  const { path } = await import(`${page}/api.js`);
  for (const name of ['.', '..']) assert.throws(() => path('users', name, 'sessions'), /cannot stand in a URL/);
  for (const name of ['a/b', '...', '%2e', '%2e%2E', '\\..\\', ' .', 'ä', '?#']) {
    const whole = path('users', name, 'sessions');
    assert.equal(new URL(whole, 'http://x').pathname, whole, name);
  }
});

/** An API that is logged in by `token`, with these answers of the gateway. */
async function loggedIn(context, answers) {
  const { Api } = await import(`${page}/api.js`);
  const kept = new Map();
  globalThis.sessionStorage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key) };
  context.after(() => { delete globalThis.sessionStorage; });
  context.mock.method(globalThis, 'fetch', async (path) => (path === '/api/v1/token' ? Response.json({ name: 'ops', scopes: ['admin'] }) : answers(path)));
  const api = new Api();
  await api.login('first');
  return api;
}

test('a refusal of the last token does not end the login by the next one', async (context) => {
  let refuse;
  const api = await loggedIn(context, () => new Promise((resolve) => (refuse = () => resolve(Response.json({ error: 'not known here' }, { status: 401 })))));
  let expired = 0;
  api.onexpired = () => (expired += 1);
  const late = api.get('/late');
  api.logout();
  await api.login('second');
  refuse();
  await assert.rejects(late, { status: 401 });
  assert.deepEqual([expired, api.isLoggedIn], [0, true]);
  const now = api.get('/now');
  refuse();
  await assert.rejects(now, { status: 401 });
  assert.deepEqual([expired, api.isLoggedIn], [1, false]);
});

test('an answer that is cut, or is no JSON, is no answer', async (context) => {
  let answer = () => new Response('{"hits":');
  const api = await loggedIn(context, () => answer());
  await assert.rejects(api.get('/x'), { isAway: true });
  await assert.rejects(api.delete('/x'), { message: /may be done all the same/ });
  answer = () => new Response('<h1>bad gateway</h1>', { status: 502 });
  await assert.rejects(api.get('/x'), { message: 'The gateway answered 502.' });
});

test('a question that is closed while it is done tells what became of it', async (context) => {
  const tab = pretend(context);
  document.getElementById = () => tab.root;
  const { ask } = await import(`${page}/dialog.js`);
  const close = () => {
    let end;
    const outcome = ask({ title: '', text: '', button: 'Kick', act: () => new Promise((resolve, reject) => (end = { resolve, reject })) });
    tab.last('form').dispatchEvent(new Event('submit'));
    tab.last('dialog').close();
    return [outcome, end];
  };
  const [done, good] = close();
  good.resolve();
  assert.equal(await done, true);
  const [failed, bad] = close();
  bad.reject(new Error('RabbitMQ is away'));
  assert.equal(await failed, false);
  assert.match(tab.last('p').text, /RabbitMQ is away/);
});

test('of a very large group the page shows as many as it can, and says so', async (context) => {
  const tab = pretend(context);
  const { show } = await import(`${page}/views/presence.js`);
  const online = Array.from({ length: 20_000 }, (_, index) => ({ user: `user_${index}`, status: 'online' }));
  show({ api: { get: async (path) => (path.includes('/groups/') ? { online } : { sessions: 1, users: 1 }) }, root: tab.root, query: {} });
  tab.last('input').value = 'all';
  tab.last('form').dispatchEvent(new Event('submit'));
  await settled();
  assert.ok(tab.all('tr').length < 2_000, `${tab.all('tr').length}`);
  assert.match(tab.last('p').text, /of 20,000/);
});

test('the panel of a session asks again what it could not learn', async (context) => {
  const tab = pretend(context);
  const { showSession } = await import(`${page}/views/session.js`);
  let isSlow = true;
  const api = counting((path) => {
    if (path.endsWith('/details')) return { subscriptions: [] };
    if (isSlow) throw Object.assign(new Error('too slow'), { status: 503 });
    return { user: 'alice', session: 'one' };
  });
  showSession({ api, id: 'one', onclose: () => {} });
  const [title, error] = [tab.last('h2'), tab.all('p').find(({ role }) => role === 'alert')];
  await tab.pass(1);
  assert.deepEqual([error.textContent, error.hidden], ['too slow', false]);
  isSlow = false;
  await tab.pass(2);
  assert.deepEqual([title.textContent, error.hidden], ['alice', true]);
  await tab.pass(4);
  assert.equal(api.asked.filter((path) => !path.endsWith('/details')).length, 2);
  tab.last('dialog').close();
});

test('a name that nobody can see has a stand-in that can be clicked', async (context) => {
  const blank = '(blank: U+0020 U+200B)';
  const { named } = await import(`${page}/format.js`);
  for (const name of ['alice', ' a ', '爱丽丝', '👩‍🚀', '-', 'e\u0301']) assert.equal(named(name), name);
  assert.equal(named(''), '(no name)');
  assert.equal(named(' \u200b'), blank);
  assert.equal(named('\u3164\u2800\u00ad'), '(blank: U+3164 U+2800 U+00AD)');
  assert.match(named(' '.repeat(200)), /^\(blank: (U\+0020 ){8}…\)$/);

  const tab = pretend(context);
  const { show } = await import(`${page}/views/sessions.js`);
  const sessions = [{ user: ' \u200b', session: 's', status: 'online' }];
  show({ api: { get: async (path) => (path.endsWith('/counts') ? { sessions: 1, users: 1 } : { sessions }), may: () => false }, root: tab.root, query: {} });
  await settled();
  assert.ok(tab.all('button').some(({ text }) => text === blank), tab.all('button').map(({ text }) => text).join());
});

test('a form that was filled in is there again after the token has ended, for its own token', async (context) => {
  const tab = pretend(context);
  const { show } = await import(`${page}/views/publish.js`);
  const body = () => tab.all('textarea').at(-1);
  const first = show({ api: { name: 'ops' }, root: tab.root });
  assert.equal(body().value, '');
  Object.assign(body(), { value: 'a long text' });
  Object.assign(tab.all('input').findLast(({ checked }) => checked), { checked: false });
  first?.leave?.();
  const other = show({ api: { name: 'other' }, root: tab.root });
  assert.equal(body().value, '');
  assert.ok(other);
  show({ api: { name: 'ops' }, root: tab.root });
  assert.equal(body().value, 'a long text');
  assert.ok(!tab.all('input').slice(-5).some(({ checked }) => checked));
});
