// Looks at all nodes again and again, while somebody looks at the page.

import { alarms } from './alarms.js';
import { whileSeen } from './repeat.js';
import { Series, bucketsBetween, deliveryHistogram, quantile, speedOfAll, sum } from './series.js';

const EVERY = 2_000; // milliseconds
const AFTER_ERROR = 5_000;
const WINDOW = 15; // looks: a quantile is of the last half minute, for many calls are seldom

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
  #isOn = false;
  #looks = []; // the nodes of the last looks

  constructor(api) {
    this.#api = api;
  }

  start() {
    this.#isOn = true;
    this.#end = whileSeen(() => this.#look());
  }

  stop() {
    this.#isOn = false;
    this.#end();
    [this.overview, this.before, this.error] = [null, null, null];
    this.#looks = [];
    for (const series of Object.values(this.series)) series.points = [];
  }

  /** Resolves to the pause until the next look. */
  async #look() {
    try {
      const overview = await this.#api.get('/api/v1/overview');
      if (!this.#isOn) return undefined;
      [this.before, this.overview, this.error] = [this.overview, overview, null];
      this.#note();
    } catch (error) {
      if (!this.#isOn) return undefined;
      this.error = error;
    }
    this.onlook();
    return this.error ? AFTER_ERROR : EVERY;
  }

  #note() {
    const [before, after] = [this.before?.nodes ?? [], this.overview.nodes];
    const rate = (...names) => {
      const rates = names.map((name) => speedOfAll(before, after, name)).filter((found) => found !== undefined);
      return rates.length ? rates.reduce((all, one) => all + one, 0) : undefined;
    };
    this.#looks.push(after);
    if (this.#looks.length > WINDOW) this.#looks.shift();
    const earlier = this.#looks[0];
    const delivery = deliveryHistogram(after);
    const delays = delivery ? bucketsBetween(earlier, after, delivery) : [];
    const { series } = this;
    series.sessions.push(after.reduce((all, node) => all + node.sessions, 0));
    series.delivered.push(rate('stentor_feed_deliveries_total', 'stentor_dedicated_deliveries_total'));
    series.published.push(rate('stentor_publishes_total'));
    series.sent.push(rate('stentor_sent_bytes_total'));
    series.received.push(rate('stentor_received_bytes_total'));
    series.p50.push(quantile(0.5, delays));
    series.p99.push(quantile(0.99, delays));
    series.hook.push(quantile(0.99, bucketsBetween(earlier, after, 'stentor_hook_call_seconds')));
    series.memory.push(sum(after, 'process_resident_memory_bytes'));
    series.cpu.push(rate('process_cpu_seconds_total'));
    this.alarms = alarms(this.before, this.overview);
  }
}
