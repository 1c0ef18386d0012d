// The HTTP API, as this page asks it.
//
// The token stays in this tab (sessionStorage), and goes with each request in its Authorization
// header. A cookie would go by itself, also with requests that other pages make, and to every other
// port of this host; this does not.

const KEY = 'stentor-token';

/** An answer that is not the wanted one, or none. */
export class ApiError extends Error {
  /** `status` is 0 without an answer. */
  constructor(status, body) {
    super(body?.error ?? `The gateway answered ${status}.`);
    this.status = status;
    this.field = body?.field;
    this.body = body;
  }

  get isAway() {
    return this.status === 0;
  }
}

// How long an answer may take, in milliseconds. An action goes on without its caller, so the gateway has the last
// word: its own bound is twice broker.operation_timeout and some seconds.
const PATIENCE = 20_000;
const PATIENCE_OF_ACTIONS = 600_000;

export class Api {
  /** Called once the token does not count any more. */
  onexpired = () => {};
  #document;
  name = '';
  scopes = [];

  get isLoggedIn() {
    return this.scopes.length > 0;
  }

  /** Whether the token allows it: `read`, `publish`, `history` or `admin`. */
  may(scope) {
    return this.scopes.includes(scope);
  }

  /** Takes the token of this tab, if there is one. */
  async resume() {
    if (!sessionStorage.getItem(KEY)) return false;
    return this.#learn();
  }

  /** Takes a token; an error says why it is not taken. */
  async login(token) {
    sessionStorage.setItem(KEY, token);
    try {
      return await this.#learn();
    } catch (error) {
      sessionStorage.removeItem(KEY);
      throw error;
    }
  }

  logout() {
    sessionStorage.removeItem(KEY);
    this.scopes = [];
  }

  /** Whether this version has an operation with that in its path. */
  async serves(part) {
    this.#document ??= this.get('/api/openapi.json').catch(() => ({ paths: {} }));
    return Object.keys((await this.#document).paths).some((path) => path.includes(part));
  }

  async #learn() {
    const { name, scopes } = await this.#ask('GET', '/api/v1/token');
    [this.name, this.scopes] = [name, scopes];
    return true;
  }

  /** Asks, with parameters that have a value. */
  get = (path, query) => this.#ask('GET', path, { query });
  post = (path, body) => this.#ask('POST', path, { body });
  delete = (path, query) => this.#ask('DELETE', path, { query });

  async #ask(method, path, { query = {}, body } = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== '');
    const parameters = new URLSearchParams(given).toString();
    const token = sessionStorage.getItem(KEY) ?? '';
    const headers = { Authorization: `Bearer ${token}` };
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    const isAction = method !== 'GET';
    let response, answer;
    try {
      response = await fetch(parameters ? `${path}?${parameters}` : path, {
        method, headers, body: body === undefined ? undefined : JSON.stringify(body),
        cache: 'no-store', credentials: 'omit', redirect: 'error', signal: AbortSignal.timeout(isAction ? PATIENCE_OF_ACTIONS : PATIENCE),
      });
      // An answer that is cut is none. What refuses a request may be a proxy, and have other words.
      answer = await (response.ok ? response.json() : response.json().catch(() => undefined));
    } catch {
      const error = isAction ? 'No answer came. It may be done all the same: look before you repeat it.' : 'The gateway does not answer.';
      throw new ApiError(0, { error });
    }
    if (response.ok) return answer;
    const error = new ApiError(response.status, answer);
    // A late refusal of the last token is none of this one.
    if (response.status === 401 && this.isLoggedIn && token === (sessionStorage.getItem(KEY) ?? '')) {
      this.logout();
      this.onexpired(error);
    }
    throw error;
  }
}

/** A path, with names in it that may have anything in them; it throws at one that no path can hold. */
export function path(...parts) {
  // Browsers take them out, also as %2e and %2e%2e: the request would be about something else.
  if (parts.some((part) => part === '.' || part === '..')) throw new Error('The names “.” and “..” cannot stand in a URL’s path: they mean another.');
  return `/api/v1/${parts.map(encodeURIComponent).join('/')}`;
}
