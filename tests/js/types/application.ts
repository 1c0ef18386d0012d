// An application as its author types it; what has @ts-expect-error must not compile.
import { Problem, StentorClient, type State, type Subscription } from 'stentor-client';

const client = new StentorClient({
  url: 'wss://push.example.com/ws',
  headers: { login: 'alice', 'device-type': 'phone' },
  getToken: async ({ reason, signal }) => {
    const response = await fetch(`/token?${reason}`, { signal });
    return response.status === 401 ? null : response.text();
  },
  onState: (state: State, { problem, delay }) => console.log(state, problem?.code, delay),
  onProblem: ({ code, next, seconds, detail }) => console.log(code, next, seconds, detail),
  stomp: { heartbeatIncoming: 20_000, debug: console.debug },
});

export async function main(): Promise<void> {
  await client.connect();
  const feed: Subscription = await client.subscribe('/exchange/feed/user_alice', ({ body, ack }) => {
    console.log(body.length);
    ack();
  }, { headers: { ack: 'client-individual' }, onLive: (again) => console.log(again ? 'load' : 'begin') });
  try {
    await client.publish('/exchange/feed/user_bob', new Uint8Array(1), { 'content-type': 'image/png' });
  } catch (error) {
    if (error instanceof Problem && error.fate === 'unknown') console.log('it may have arrived');
    // @ts-expect-error there is no such fate
    if (error instanceof Problem && error.fate === 'lost') console.log(error);
  }
  await client.setStatus('away');
  await client.watchPresence('group.team', ({ user, status }) => console.log(user, status));
  await client.subscribe('/exchange/feed/news', () => {}, {
    resume: { gap: 'earliest', storage: localStorage, key: 'news' },
    onResumed: ({ missed }) => console.log(missed === 'more' ? 'many' : missed + 1),
    onGap: (reason) => console.log(reason === 'expired' || reason === 'too-large' ? 'load' : reason),
    onProblem: ({ code, reason }) => console.log(code, reason?.length),
  });
  await client.subscribe('/exchange/feed/more', () => {}, { resume: true });
  // @ts-expect-error there is no such way out of a gap
  await client.subscribe('/exchange/feed/more', () => {}, { resume: { gap: 'ignore' } });
  await feed.unsubscribe();
  await client.close();
  // @ts-expect-error there is no such status
  await client.setStatus('asleep');
  // @ts-expect-error a body is a text or bytes
  await client.publish('/exchange/feed/user_bob', { order: 1 });
  // @ts-expect-error the client itself decides when to connect again
  new StentorClient({ url: 'ws://x', stomp: { reconnectDelay: 1 } });
  // @ts-expect-error the state is read only
  client.state = 'closed';
}
