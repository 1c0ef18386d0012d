// Rates and delays out of counters that only grow (pure).

/** How long a chart keeps a point, in milliseconds. */
export const KEPT = 300_000;

/** The numbers of the last minutes: `{ at, value }`, with `undefined` where there is none. */
export class Series {
  points = [];

  /** `at` is in milliseconds. A clock that was put back leaves no points of the future. */
  push(value, at) {
    this.points = this.points.filter((point) => point.at <= at && point.at >= at - KEPT);
    this.points.push({ at, value: Number.isFinite(value) ? value : undefined });
  }

  get last() {
    return this.points.at(-1)?.value;
  }

  get most() {
    return Math.max(0, ...this.#known);
  }

  /** Whether there is a number. */
  get isKnown() {
    return this.#known.length > 0;
  }

  get #known() {
    return this.points.map(({ value }) => value).filter((value) => value !== undefined);
  }
}

/** A value of one node, or `undefined`. */
export const value = (node, name) => node.figures.values[name];

/** The sum of a value over nodes; `undefined` where no node has it. */
export function sum(nodes, name) {
  const values = nodes.map((node) => value(node, name)).filter((found) => found !== undefined);
  return values.length ? values.reduce((all, one) => all + one, 0) : undefined;
}

/** The nodes of several looks, each as in the oldest look since its start. */
export function oldest(looks) {
  const found = new Map();
  for (const node of looks.flat()) if (!isSame(found.get(node.node), node)) found.set(node.node, node);
  return [...found.values()];
}

/** Whether these are two looks at one node, which did not begin anew between them. */
const isSame = (before, after) => before !== undefined && before.node === after.node && before.started === after.started;

/** The seconds between two looks at a node, by its own clock; `undefined` if it began anew. */
function between(before, after) {
  if (!isSame(before, after)) return undefined;
  const seconds = (new Date(after.at) - new Date(before.at)) / 1000;
  return seconds > 0 ? seconds : undefined;
}

/** How fast a counter of one node grows, by second. */
export function speed(before, after, name) {
  const seconds = between(before, after);
  const [from, to] = [before && value(before, name), value(after, name)];
  if (seconds === undefined || from === undefined || to === undefined || to < from) return undefined;
  return (to - from) / seconds;
}

/**
 * Whether a counter of one node grew. One with labels is not there before its first count: in a node
 * that was there, it was 0.
 */
export const hasGrown = (before, after, name) => isSame(before, after) && value(after, name) > (value(before, name) ?? 0);

/** The speed of all nodes together. Those that were not there before do not count yet. */
export function speedOfAll(before, after, name) {
  const earlier = new Map(before.map((node) => [node.node, node]));
  const speeds = after.map((node) => speed(earlier.get(node.node), node, name));
  const known = speeds.filter((found) => found !== undefined);
  return known.length ? known.reduce((all, one) => all + one, 0) : undefined;
}

/** The buckets of a histogram that were filled between two looks, of all nodes together. */
export function bucketsBetween(before, after, name) {
  const earlier = new Map(before.map((node) => [node.node, node]));
  const grown = new Map();
  for (const node of after) {
    const old = earlier.get(node.node);
    if (!isSame(old, node)) continue;
    const counts = new Map((old.figures.histograms[name] ?? []).map(({ le, count }) => [le, count]));
    for (const { le, count } of node.figures.histograms[name] ?? []) {
      grown.set(le, (grown.get(le) ?? 0) + Math.max(0, count - (counts.get(le) ?? 0)));
    }
  }
  return [...grown].map(([le, count]) => ({ le, count })).sort((a, b) => (a.le ?? Infinity) - (b.le ?? Infinity));
}

/** A quantile, as Prometheus reckons it: evenly spread within its bucket. */
export function quantile(share, buckets) {
  const all = buckets.at(-1)?.count ?? 0;
  if (!all) return undefined;
  const wanted = share * all;
  let [bound, count] = [0, 0];
  for (const bucket of buckets) {
    if (bucket.count >= wanted) {
      // Beyond the last bound nothing is known but that.
      if (bucket.le === undefined) return bound;
      const inside = bucket.count - count;
      return inside ? bound + (bucket.le - bound) * ((wanted - count) / inside) : bucket.le;
    }
    [bound, count] = [bucket.le ?? bound, bucket.count];
  }
  return bound;
}

/** The name of the histogram of deliveries, if this version has one. */
export function deliveryHistogram(nodes) {
  const names = nodes.flatMap((node) => Object.keys(node.figures.histograms));
  return names.find((name) => name === 'stentor_delivery_seconds') ?? names.find((name) => /^stentor_deliver\w*_seconds$/.test(name));
}
