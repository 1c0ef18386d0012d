// Which numbers came: of each run of the publisher they are 1, 2, 3 …

const SHOWN = 60;

export class Ledger {
  #storage;
  #key;
  #run;
  #next; // the number that is expected
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
    this.#run = kept.run;
    this.#next = kept.next;
    this.#missing = kept.missing ?? [];
  }

  get isEmpty() {
    return this.received === 0;
  }

  get missed() {
    return this.#missing.length;
  }

  take(run, n, isLate) {
    if (run !== this.#run) { // a publisher that was started anew; the page may have come in the middle of it
      this.#run = run;
      this.#next = this.isEmpty ? n : 1;
    }
    this.#next ??= n;
    this.received += 1;
    this.late += isLate ? 1 : 0;
    const found = this.#missing.indexOf(`${run} ${n}`);
    if (found >= 0) this.#missing.splice(found, 1);
    else if (n < this.#next) this.doubled += 1;
    for (; this.#next < n; this.#next += 1) this.#missing.push(`${run} ${this.#next}`);
    this.#next = Math.max(this.#next, n + 1);
    this.last = [...this.last, { n, isLate }].slice(-SHOWN);
    this.#save();
  }

  /** The server has told that messages are missing: it goes on with whatever comes. */
  gap() {
    this.#next = undefined;
    this.#save();
  }

  #save() {
    const { received, doubled, late, last } = this;
    const kept = { received, doubled, late, last, run: this.#run, next: this.#next, missing: this.#missing };
    this.#storage.setItem(this.#key, JSON.stringify(kept));
  }
}
