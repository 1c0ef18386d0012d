/** The last texts that were added, so many at most. */
export class Recent {
  #texts = new Set();
  #most;

  constructor(most) {
    this.#most = most;
  }

  has(text) {
    return this.#texts.has(text);
  }

  add(text) {
    this.#texts.delete(text);
    this.#texts.add(text);
    if (this.#texts.size > this.#most) {
      const [oldest] = this.#texts;
      this.#texts.delete(oldest);
    }
  }
}
