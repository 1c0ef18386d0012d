import { readFile, rename, writeFile } from 'node:fs/promises';

/**
 * Who is to be reached where: a JSON file, `{ "alice": { "phone-1": SUBSCRIPTION } }`. A subscription
 * is what a browser's `pushManager.subscribe()` gave.
 *
 * A device has one subscription, the newest; and an endpoint is one device's, whoever had it before:
 * a browser in which Alice logged out and Bob logged in gets Bob's messages, once, and Alice's no
 * more.
 */
export class Devices {
  #file;
  #users;
  #saving = Promise.resolve();

  static async read(file) {
    const text = await readFile(file, 'utf8').catch((error) => {
      if (error.code === 'ENOENT') {
        return '{}';
      }
      throw error;
    });
    return new Devices(file, JSON.parse(text));
  }

  constructor(file, users) {
    this.#file = file;
    this.#users = new Map(Object.entries(users).map(([user, devices]) => [user, new Map(Object.entries(devices))]));
  }

  /** The devices of a user: `[[device, subscription]]`. */
  of(user) {
    return [...(this.#users.get(user) ?? [])];
  }

  async register(user, device, subscription) {
    for (const [other, devices] of this.#users) {
      for (const [name, { endpoint }] of devices) {
        if (endpoint === subscription.endpoint) {
          this.#delete(other, name);
        }
      }
    }
    const devices = this.#users.get(user) ?? new Map();
    devices.set(device, subscription);
    this.#users.set(user, devices);
    await this.#save();
  }

  /** The push service said that this subscription is gone. */
  async forget(user, device) {
    this.#delete(user, device);
    await this.#save();
  }

  #delete(user, device) {
    const devices = this.#users.get(user);
    devices?.delete(device);
    if (devices?.size === 0) {
      this.#users.delete(user);
    }
  }

  /** One save after the other: two at once would write into the same new file. */
  #save() {
    this.#saving = this.#saving.catch(() => {}).then(() => this.#write());
    return this.#saving;
  }

  async #write() {
    const users = [...this.#users].map(([user, devices]) => [user, Object.fromEntries(devices)]);
    // Never half a file.
    await writeFile(`${this.#file}.new`, JSON.stringify(Object.fromEntries(users), null, 2));
    await rename(`${this.#file}.new`, this.#file);
  }
}
