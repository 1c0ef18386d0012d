// Which numbers came. Each run of a publisher counts 1, 2, 3 …, and several may run at a time. A page that
// comes in the middle of a run counts from where it came.

const SHOWN = 60;
const RUNS = 20; // of so many it remembers where they are

export class Ledger {
  #storage;
  #key;
  #next; // run -> the number that is expected next
  #missing = []; // numbers that are missing
  received = 0;
  doubled = 0;
  late = 0;
  /** The last ones, oldest first. */
  last = [];

  constructor(storage, key) {
    this.#storage = storage;
    this.#key = key;
    const kept = JSON.parse(storage.getItem(key) ?? '{}');
    for (const name of ['received', 'doubled', 'late', 'last']) this[name] = kept[name] ?? this[name];
    this.#next = new Map(kept.next);
    this.#missing = kept.missing ?? [];
  }

  get isEmpty() {
    return this.received === 0;
  }

  get missed() {
    return this.#missing.length;
  }

  take(run, n, isLate) {
    const next = this.#next.get(run) ?? n;
    this.received += 1;
    this.late += isLate ? 1 : 0;
    const found = this.#missing.indexOf(`${run} ${n}`);
    if (found >= 0) this.#missing.splice(found, 1);
    else if (n < next) this.doubled += 1;
    for (let missing = next; missing < n; missing += 1) this.#missing.push(`${run} ${missing}`);
    this.#next.delete(run); // the last one is the newest
    this.#next.set(run, Math.max(next, n + 1));
    if (this.#next.size > RUNS) this.#next.delete(this.#next.keys().next().value);
    this.last = [...this.last, { n, isLate }].slice(-SHOWN);
    this.#save();
  }

  /** The server has told that messages are missing: it goes on with whatever comes. */
  gap() {
    this.#next.clear();
    this.#save();
  }

  #save() {
    const { received, doubled, late, last } = this;
    const kept = { received, doubled, late, last, next: [...this.#next], missing: this.#missing };
    this.#storage.setItem(this.#key, JSON.stringify(kept));
  }
}
