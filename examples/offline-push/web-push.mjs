import webPush from 'web-push';
import { Devices } from './devices.mjs';
import { Refused } from './persist.mjs';
import { Recent } from './recent.mjs';

// Of the push service, not of this message and device: it is tried again, as 5xx are.
const AWAY = [408, 425, 429];

/** Sends messages to the browsers of a user, by VAPID (RFC 8292). */
export class WebPush {
  #devices;
  #vapid;
  // If one device of two fails, the other one does not get the message again.
  #sent = new Recent(100_000);

  static async fromEnvironment() {
    const { DEVICES, VAPID_PUBLIC, VAPID_PRIVATE, VAPID_SUBJECT } = process.env;
    if (!DEVICES || !VAPID_PUBLIC || !VAPID_PRIVATE || !VAPID_SUBJECT) {
      throw new Error('set WEBHOOK_URL, or DEVICES, VAPID_PUBLIC, VAPID_PRIVATE and VAPID_SUBJECT');
    }
    const vapid = { subject: VAPID_SUBJECT, publicKey: VAPID_PUBLIC, privateKey: VAPID_PRIVATE };
    return new WebPush(await Devices.read(DEVICES), vapid);
  }

  constructor(devices, vapid) {
    this.#devices = devices;
    this.#vapid = vapid;
  }

  /** Resolves to the number of devices that have it. Rejects if one may have it later, or (`Refused`) never. */
  async push(message) {
    const devices = this.#devices.of(message.user);
    const all = devices.map(([device, subscription]) => this.#send(message, device, subscription));
    const outcomes = await Promise.allSettled(all);
    const failed = outcomes.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => reason);
    if (failed.length > 0) {
      throw failed.find((error) => !(error instanceof Refused)) ?? failed[0];
    }
    return outcomes.filter((outcome) => outcome.value).length;
  }

  /** Resolves to whether the device has it. */
  async #send(message, device, subscription) {
    const name = message.id && `${message.user} ${device} ${message.id}`;
    if (name && this.#sent.has(name)) {
      return true;
    }
    // A push service keeps it for a day, for a device that is off.
    const sending = [subscription, JSON.stringify(message), { vapidDetails: this.#vapid, TTL: 24 * 60 * 60, timeout: 5000 }];
    try {
      webPush.generateRequestDetails(...sending);
    } catch (error) {
      throw new Refused(`the subscription of ${device} cannot be used: ${error.message}`);
    }
    try {
      await webPush.sendNotification(...sending);
    } catch ({ statusCode: status, message: words }) {
      if (status !== 404 && status !== 410) {
        const isRefused = status >= 400 && status < 500 && !AWAY.includes(status);
        throw new (isRefused ? Refused : Error)(`the push service of ${device} answered ${status ?? words}`);
      }
      console.log(`gone: ${message.user} ${device}`);
      await this.#devices.forget(message.user, device);
      return false;
    }
    if (name) {
      this.#sent.add(name);
    }
    return true;
  }
}
