import { Client } from '@stomp/stompjs';

import { StentorClient as Base } from './client.js';

export { Problem } from './advice.js';

/** See client.js. */
export class StentorClient extends Base {
  constructor(options) {
    super({ Stomp: Client, ...options });
  }
}
