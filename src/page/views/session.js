// One session: what it is, what it does now, and what can be done to it.

import { ask, reasonInput, tell } from '../dialog.js';
import { check, command, facts, field, h, redraw, status, table } from '../dom.js';
import { path } from '../api.js';
import { bytes, count, duration, moment, named, plural, shortfall } from '../format.js';
import { whileSeen } from '../repeat.js';

const EVERY = 2_000; // milliseconds

/** Opens it at the side, and looks again and again. `onclose` hears whether anything was done to it. */
export function showSession({ api, id, kick, ban, onclose }) {
  const now = h('div', { class: 'now' });
  const who = h('div', { class: 'about' });
  const title = h('h2', { id: 'session-title' }, 'Session');
  const actions = h('div', { class: 'buttons' });
  const error = h('p', { class: 'error', role: 'alert', hidden: true });
  const dialog = h('dialog', {
    class: 'side-panel', 'aria-labelledby': 'session-title',
    onclose: () => {
      end();
      dialog.remove();
      onclose(hasActed);
    },
  }, h('div', { class: 'panel-head' }, title, h('button', { type: 'button', class: 'quiet', onclick: () => dialog.close() }, 'Close')),
  error, who, now, actions);
  let end, isKnown = false, hasActed = false;

  async function about() {
    const session = await api.get(path('sessions', id));
    title.textContent = named(session.user);
    who.replaceChildren(facts(
      ['Session', h('code', {}, session.session)], ['Node', h('code', {}, session.node)], ['Address', session.remote && h('code', {}, session.remote)],
      ['Transport', session.transport], ['Status', status(session.status)],
      ['Device', [session.device_type, session.device_id].filter(Boolean).join(' · ')],
      ['Since', moment(session.since)], ['Last seen', moment(session.last_seen)],
      ['From a shell', command(`stentor ctl session ${session.session} --details`)],
      ['Live frames', (await api.serves('/tail')) && command(`stentor tail --session ${session.session}`)],
    ));
    if (api.may('admin')) actions.replaceChildren(...buttons(session));
    isKnown = true;
  }

  async function details() {
    redraw(now, ...detailsOf(await api.get(path('sessions', id, 'details'))));
  }

  function buttons(session) {
    const host = session.remote?.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
    const button = (text, act, kind = 'quiet') =>
      h('button', { type: 'button', class: kind, onclick: async () => {
        if (!(await act())) return;
        hasActed = true;
        dialog.close();
      } }, text);
    return [
      button('Kick', () => kick(session), 'danger'),
      button('Ban the user', () => ban({ user: session.user })),
      host && button('Ban the address', () => ban({ address: host })),
      session.device_id && button('Ban the device', () => ban({ device_id: session.device_id })),
    ].filter(Boolean);
  }

  /** Resolves to the pause until the next look; to nothing once the session has ended. */
  async function look() {
    const [{ reason: unknown }, { reason: unseen }] = await Promise.allSettled([isKnown || about(), details()]);
    const [problem, hasEnded] = [unseen ?? unknown, unseen?.status === 404];
    error.textContent = hasEnded ? 'The session has ended.' : problem?.message;
    error.hidden = !problem;
    return hasEnded ? undefined : EVERY;
  }

  document.body.append(dialog);
  dialog.showModal();
  end = whileSeen(look);
}

function detailsOf(details) {
  const left = details.subscriptions_left_out;
  const columns = [{ name: 'Destination', long: true }, { name: 'Messages', number: true }, { name: 'To acknowledge', number: true }];
  const rows = details.subscriptions.map((subscription) => [
    [h('code', {}, subscription.queue ? `queue ${subscription.queue}` : `${subscription.exchange} / ${subscription.key}`),
      h('small', { class: 'under' }, `id ${subscription.id} · ack ${subscription.ack}`)],
    count(subscription.messages), count(subscription.unacknowledged),
  ]);
  return [
    h('h3', {}, 'Now'),
    facts(
      ['Waiting', `${plural(details.waiting_messages, 'message')}, ${bytes(details.waiting_bytes)}`],
      ['Not read by the client', bytes(details.unwritten_bytes)],
      ['Frames in progress', count(details.pending_frames)],
      ['Frames from the client', `${count(details.frames_in)} (${plural(details.messages_in, 'message')})`],
      ['Frames to the client', `${count(details.frames_out)} (${plural(details.messages_out, 'message')})`],
      ['STOMP', `${details.version}, open for ${duration(details.open_seconds)}`],
    ),
    h('h3', {}, 'Subscriptions'),
    table('Subscriptions', columns, rows, 'It is subscribed to nothing.'),
    left ? h('p', { class: 'hint' }, `${count(left)} more are not shown.`) : '',
  ].filter(Boolean);
}

/** Asks, and ends a session, or all of its user. Resolves to whether it was done. */
export function kickDialog(api, session) {
  const reason = reasonInput();
  const all = h('input', { type: 'checkbox' });
  return ask({
    title: `Kick ${named(session.user)}?`,
    text: 'Its client gets ERROR “kicked”, and the reason. It may log in again: ban it if it should not.',
    fields: [field('Reason, for the client', reason), check('All sessions of this user, on all nodes', all)],
    button: 'Kick',
    act: async () => {
      const where = all.checked ? path('users', session.user, 'sessions') : path('sessions', session.session);
      const outcome = await api.delete(where, { reason: reason.value });
      tell(`${plural(outcome.hits, 'session')} of ${named(session.user)} told to end.${shortfall(outcome)}`);
    },
  });
}

const TIMES = [['One hour', 3600], ['One day', 86_400], ['One week', 604_800], ['Until it is lifted', '']];

/** Asks, and bans: one of `user`, `address` and `device_id`. */
export function banDialog(api, what) {
  const [kind, name] = Object.entries(what)[0];
  const reason = reasonInput();
  const time = h('select', {}, TIMES.map(([text, value]) => h('option', { value }, text)));
  return ask({
    title: `Ban ${{ user: 'the user', address: 'the address', device_id: 'the device' }[kind]} ${named(name)}?`,
    text: 'Its sessions end now, on all nodes, and it is kept out.',
    fields: [field('How long', time), field('Reason', reason, 'Sessions that end are told; so are banned addresses and devices.')],
    button: 'Ban',
    act: async () => {
      const seconds = time.value ? Number(time.value) : undefined;
      const outcome = await api.post('/api/v1/bans', { ...what, seconds, reason: reason.value });
      tell(`${named(name)} is banned on ${outcome.reach === 'all_nodes' ? 'all nodes' : 'this node only'}; ${plural(outcome.hits, 'session')} ended.${shortfall(outcome)}`);
    },
  });
}
