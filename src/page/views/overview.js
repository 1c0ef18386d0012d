// All nodes at a glance.

import { Chart } from '../chart.js';
import { h, pill, redraw, table } from '../dom.js';
import { ago, bytes, count, delay, moment, plural, rate } from '../format.js';
import { speed, sum, value } from '../series.js';

export const title = 'Overview';
export const scope = 'read';

export function show({ watch, root }) {
  const { series } = watch;
  const charts = [
    new Chart('Sessions', [{ name: '', series: series.sessions }], count),
    new Chart('Messages a second', [
      { name: 'delivered', series: series.delivered }, { name: 'published', series: series.published }], rate),
    new Chart('Delivery time', [{ name: 'p50', series: series.p50 }, { name: 'p99', series: series.p99 }], delay,
      'No message in the last half minute, or this version does not measure it.'),
    new Chart('Bytes a second', [{ name: 'out', series: series.sent }, { name: 'in', series: series.received }], bytes),
    new Chart('Hook’s answers, p99', [{ name: '', series: series.hook }], delay, 'No call in the last half minute.'),
    new Chart('Memory', [{ name: '', series: series.memory }], bytes),
  ];
  const tiles = h('div', { class: 'tiles' });
  const alarms = h('section', { class: 'block' });
  const nodes = h('section', { class: 'block' });
  root.append(h('h1', {}, title), tiles, alarms, h('div', { class: 'charts' }, charts.map((chart) => chart.element)), nodes);
  const draw = () => {
    charts.forEach((chart) => chart.draw());
    if (!watch.overview) return;
    tiles.replaceChildren(...tilesOf(watch));
    alarms.replaceChildren(...alarmsOf(watch));
    redraw(nodes, ...nodesOf(watch));
  };
  draw();
  return { look: draw };
}

const tile = (name, shown, detail) => h('div', { class: 'tile' }, h('p', {}, name), h('b', {}, shown), h('small', {}, detail));

function tilesOf({ overview: { nodes, silent = [] } }) {
  const all = (key) => nodes.reduce((sum, node) => sum + node[key], 0);
  const subscriptions = (sum(nodes, 'stentor_shared_subscriptions') ?? 0) + (sum(nodes, 'stentor_dedicated_subscriptions') ?? 0);
  const own = sum(nodes, 'stentor_dedicated_subscriptions') ?? 0;
  const ready = nodes.filter((node) => !node.not_ready).length;
  return [
    tile('Nodes', count(nodes.length + silent.length), `${count(ready)} ready`),
    tile('Sessions', count(all('sessions')), `of ${count(all('max_connections'))}`),
    tile('Connections', count(all('connections')), `${count(all('connections') - all('sessions'))} not logged in`),
    tile('Subscriptions', count(subscriptions), own ? `${count(own)} own queues` : 'all by feeds'),
    tile('Broker links', ...linksOf(nodes)),
    tile('Bans', count(Math.max(...nodes.map((node) => value(node, 'stentor_bans') ?? 0))), 'in force'),
  ];
}

/** The links to the broker, and where they lead. A node whose broker is embedded is well without. */
export function linksOf(nodes) {
  const all = nodes.flatMap((node) => node.links);
  if (!all.length && nodes.every((node) => node.broker === 'ok')) return ['–', 'embedded broker'];
  return [count(all.reduce((sum, { links }) => sum + links, 0)), all.length ? plural(new Set(all.map(({ address }) => address)).size, 'address', 'addresses') : 'no broker'];
}

function alarmsOf({ alarms, error, overview }) {
  const heading = h('h2', {}, 'Alarms');
  if (error) return [heading, h('p', { class: 'calm' }, pill('bad', 'unknown'), ` All figures here are of ${moment(overview.nodes[0]?.at)}.`)];
  if (!alarms.length) return [heading, h('p', { class: 'calm' }, pill('good', 'none'), ' All nodes that answer are well.')];
  return [heading, h('ul', { class: 'alarms' }, alarms.map(({ level, node, text }) =>
    h('li', {}, pill(level, level === 'bad' ? 'fault' : 'look'), ' ', node && h('code', {}, node), node && ' ', text)))];
}

/** The state of a part: `ok` in few words. */
const state = (text) => pill(text === 'ok' ? 'good' : text === 'off' ? 'plain' : 'bad', text.length > 40 ? 'fault' : text);

function nodesOf({ overview, before }) {
  const earlier = new Map((before?.nodes ?? []).map((node) => [node.node, node]));
  const columns = [
    { name: 'Node' }, { name: 'State' }, { name: 'Sessions', number: true }, { name: 'Delivered/s', number: true },
    { name: 'Memory', number: true }, { name: 'CPU', number: true, minor: true }, { name: 'Broker' }, { name: 'Presence' },
    { name: 'Hook faults', number: true, minor: true },
  ];
  const rows = overview.nodes.map((node) => {
    const per = (name) => speed(earlier.get(node.node), node, name);
    const cpu = per('process_cpu_seconds_total');
    const isReady = !node.not_ready && node.phase === 'running';
    return [
      [h('code', {}, node.node), h('small', { class: 'under' }, `${node.version}, up for ${ago(node.started, new Date(node.at))}`)],
      pill(isReady ? 'good' : 'bad', isReady ? 'ready' : node.phase === 'running' ? 'not ready' : node.phase),
      count(node.sessions),
      rate((per('stentor_feed_deliveries_total') ?? NaN) + (per('stentor_dedicated_deliveries_total') ?? 0)),
      bytes(value(node, 'process_resident_memory_bytes')),
      cpu === undefined ? '–' : `${Math.round(cpu * 100)} %`,
      [state(node.broker), node.links.map(({ address, links }) => h('small', { class: 'under' }, `${address} × ${links}`))],
      state(node.presence),
      count(value(node, 'stentor_hook_faults_total') ?? 0),
    ];
  });
  const silent = (overview.silent ?? []).map((name) =>
    columns.map((_, index) => (index === 0 ? h('code', {}, name) : index === 1 ? pill('bad', 'silent') : '')));
  return [h('h2', {}, 'Nodes'), table('Nodes', columns, [...rows, ...silent], 'No node answers.')];
}
