// What clients are subscribed to, and the feeds that bring it.

import { h, redraw, table } from '../dom.js';
import { bytes, count, rate } from '../format.js';

export const title = 'Destinations';
export const scope = 'read';

const AFTER_KEY = 250;

export function show({ api, watch, root, query }) {
  const search = h('input', { type: 'search', placeholder: 'exchange or key', value: query.search ?? '', maxlength: 255, 'aria-label': 'Search destinations', autocomplete: 'off', spellcheck: 'false' });
  const total = h('p', { class: 'soft', role: 'status' });
  const list = h('div', { id: 'destinations' });
  const feeds = h('section', { class: 'block' });
  let asked = 0, timer;
  root.append(h('h1', {}, title), feeds, h('h2', {}, 'Subscriptions'),
    h('div', { class: 'tools' }, h('div', { class: 'search' }, search, h('kbd', { 'aria-hidden': 'true' }, '/')),
      h('button', { type: 'button', class: 'quiet', onclick: () => load() }, 'Refresh')),
    total, list);

  async function load() {
    const mine = (asked += 1);
    try {
      const { nodes } = await api.get('/api/v1/destinations', { search: search.value.trim() });
      if (mine !== asked) return;
      const found = merge(nodes);
      const all = nodes.reduce((sum, node) => sum + node.total, 0);
      total.textContent = all > found.length ? `The ${count(found.length)} with most subscriptions, of ${count(all)}` : `${count(all)} with subscriptions by feeds`;
      list.replaceChildren(table('Destinations',
        [{ name: 'Exchange' }, { name: 'Key or pattern', long: true }, { name: 'Subscriptions', number: true }, { name: 'Nodes', number: true, minor: true }, { name: 'Virtual host', minor: true }],
        found.map(({ vhost, exchange, key, subscriptions, nodes }) => [h('code', {}, exchange), h('code', {}, key || '(empty)'), count(subscriptions), count(nodes), h('code', {}, vhost)]),
        search.value.trim() ? `No destination has “${search.value.trim()}” in it.` : 'Nobody is subscribed to a feed.'));
    } catch (error) {
      if (mine !== asked) return;
      total.textContent = '';
      list.replaceChildren(h('p', { class: 'empty' }, error.message));
    }
  }

  search.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(load, AFTER_KEY);
  });
  const look = () => watch.overview && redraw(feeds, ...feedsOf(watch));
  load();
  look();
  return {
    look,
    leave() {
      clearTimeout(timer);
      asked += 1;
    },
  };
}

/** The same destination on several nodes is one. */
export function merge(nodes) {
  const found = new Map();
  for (const { destinations } of nodes) {
    for (const destination of destinations) {
      const name = JSON.stringify([destination.vhost, destination.exchange, destination.key]);
      const known = found.get(name) ?? { ...destination, subscriptions: 0, nodes: 0 };
      known.subscriptions += destination.subscriptions;
      known.nodes += 1;
      found.set(name, known);
    }
  }
  return [...found.values()].sort((a, b) => b.subscriptions - a.subscriptions);
}

function feedsOf({ overview, before }) {
  const earlier = new Map((before?.nodes ?? []).flatMap((node) => node.feeds.map((feed) => [name(node, feed), [node, feed]])));
  const rows = overview.nodes.flatMap((node) => node.feeds.map((feed) => {
    const [old, was] = earlier.get(name(node, feed)) ?? [];
    const seconds = old ? (new Date(node.at) - new Date(old.at)) / 1000 : NaN;
    const per = (key) => (seconds > 0 && feed[key] >= was[key] ? (feed[key] - was[key]) / seconds : undefined);
    return [
      [h('code', {}, feed.exchange), h('small', { class: 'under' }, `shard ${feed.shard}, host ${feed.vhost}`)], feed.kind, count(feed.patterns), rate(per('routed')), rate(per('delivered')),
      count(feed.delivered), count(feed.unmatched), count(feed.lingering), h('code', {}, node.node),
    ];
  }));
  const left = overview.nodes.reduce((sum, node) => sum + (node.feeds_left_out ?? 0), 0);
  const columns = [
    { name: 'Exchange' }, { name: 'Type' }, { name: 'Bindings', number: true }, { name: 'Messages/s', number: true }, { name: 'Deliveries/s', number: true },
    { name: 'Deliveries', number: true }, { name: 'Unmatched', number: true, minor: true }, { name: 'Lingering', number: true, minor: true },
    { name: 'Node', minor: true },
  ];
  const journals = overview.nodes.flatMap((node) => node.feeds.filter((feed) => feed.journal).map(({ exchange, vhost, journal }) => [
    [h('code', {}, exchange), h('small', { class: 'under' }, `host ${vhost}`)], journal.newest === undefined ? '' : count(journal.newest),
    count(journal.oldest_in_memory), count(journal.messages), bytes(journal.bytes), count(journal.resuming), count(journal.readings), h('code', {}, node.node),
  ]));
  const journalColumns = [
    { name: 'Exchange' }, { name: 'Newest', number: true }, { name: 'In memory from', number: true, minor: true }, { name: 'In memory', number: true },
    { name: 'Memory', number: true }, { name: 'Catching up', number: true }, { name: 'Readings', number: true }, { name: 'Node', minor: true },
  ];
  return [
    h('h2', {}, 'Feeds'),
    h('p', { class: 'soft' }, 'A feed brings the messages of one exchange to a node, for all its subscriptions. A binding that lingers has no subscription any more.'),
    table('Feeds', columns, rows, 'There is no feed: nobody is subscribed.'),
    left ? h('p', { class: 'hint' }, `${count(left)} more deliver less, and are not shown.`) : '',
    ...(journals.length ? [h('h2', {}, 'Journals'), table('Journals', journalColumns, journals, '')] : []),
  ].filter(Boolean);
}

const name = (node, { vhost, exchange, shard }) => JSON.stringify([node.node, vhost, exchange, shard]);
