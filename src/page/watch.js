// Looks at all nodes again and again, while somebody looks at the page.

import { alarms } from './alarms.js';
import { whileSeen } from './repeat.js';
import { Series, bucketsBetween, deliveryHistogram, oldest, quantile, speedOfAll, sum } from './series.js';

const EVERY = 2_000; // milliseconds
const AFTER_ERROR = 5_000;
/**
 * How long a look counts. A quantile and an alarm are of this time, for many calls are seldom; and a look
 * of before a pause, as while the tab is hidden, is compared with no later one.
 */
const WINDOW = 30_000;

export class Watch {
  /** Called after each look. */
  onlook = () => {};
  overview = null;
  before = null;
  alarms = [];
  error = null;
  series = Object.fromEntries(
    ['sessions', 'delivered', 'published', 'sent', 'received', 'p50', 'p99', 'hook', 'memory', 'cpu'].map((name) => [name, new Series()]),
  );
  #api;
  #end = () => {};
  #turn = 0; // since the last start or end: answers to questions of before are dropped
  #looks = []; // the last ones: { at, overview }

  constructor(api) {
    this.#api = api;
  }

  start() {
    const turn = (this.#turn += 1);
    this.#end = whileSeen(() => this.#look(turn));
  }

  stop() {
    this.#turn += 1;
    this.#end();
    [this.overview, this.before, this.error] = [null, null, null];
    [this.alarms, this.#looks] = [[], []];
    for (const series of Object.values(this.series)) series.points = [];
  }

  /** Resolves to the pause until the next look. */
  async #look(turn) {
    try {
      const overview = await this.#api.get('/api/v1/overview');
      if (turn !== this.#turn) return undefined;
      [this.overview, this.error] = [overview, null];
      this.#note(Date.now());
    } catch (error) {
      if (turn !== this.#turn) return undefined;
      this.error = error;
      this.#leaveGap(Date.now());
    }
    this.onlook();
    return this.error ? AFTER_ERROR : EVERY;
  }

  #leaveGap(at) {
    for (const series of Object.values(this.series)) series.push(undefined, at);
  }

  #note(at) {
    // Also none of the future, if the clock was put back.
    this.#looks = this.#looks.filter((look) => Math.abs(at - look.at) <= WINDOW);
    this.before = this.#looks.at(-1)?.overview ?? null;
    if (!this.before) this.#leaveGap(at);
    this.#looks.push({ at, overview: this.overview });
    const earlier = oldest(this.#looks.map(({ overview }) => overview.nodes));
    const [before, after] = [this.before?.nodes ?? [], this.overview.nodes];
    const rate = (...names) => {
      const rates = names.map((name) => speedOfAll(before, after, name)).filter((found) => found !== undefined);
      return rates.length ? rates.reduce((all, one) => all + one, 0) : undefined;
    };
    const delivery = deliveryHistogram(after);
    const delays = delivery ? bucketsBetween(earlier, after, delivery) : [];
    const figures = {
      sessions: after.reduce((all, node) => all + node.sessions, 0),
      delivered: rate('stentor_feed_deliveries_total', 'stentor_dedicated_deliveries_total'),
      published: rate('stentor_publishes_total'),
      sent: rate('stentor_sent_bytes_total'),
      received: rate('stentor_received_bytes_total'),
      p50: quantile(0.5, delays),
      p99: quantile(0.99, delays),
      hook: quantile(0.99, bucketsBetween(earlier, after, 'stentor_hook_call_seconds')),
      memory: sum(after, 'process_resident_memory_bytes'),
      cpu: rate('process_cpu_seconds_total'),
    };
    for (const [name, figure] of Object.entries(figures)) this.series[name].push(figure, at);
    this.alarms = alarms({ nodes: earlier }, this.overview);
  }
}
