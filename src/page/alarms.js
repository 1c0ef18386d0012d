// What an operator should look at, out of two looks at all nodes (pure).

import { hasGrown, value } from './series.js';

/** Counters that grow only when something is wrong. */
const FAULTS = [
  ['stentor_feeds_interrupted_total', 'messages of a feed may have been lost'],
  ['stentor_mailbox_overflows_total', 'mailboxes of slow clients are full'],
  ['stentor_hook_faults_total', 'calls of the hook go wrong'],
  ['stentor_publish_failures_total', 'messages are not published'],
  ['stentor_limits_exceeded_total', 'clients meet limits: they are refused, or not read for a while'],
  ['stentor_queues_suspected_total', 'queues cost links to the broker'],
];

/** Levels that are 1 when something is wrong. */
const STALE = [
  ['stentor_accounts_stale', 'RabbitMQ’s users could not be read anew'],
  ['stentor_broker_token_stale', 'the token for RabbitMQ could not be renewed'],
];

const NEARLY = 0.9;

/**
 * Alarms, the worst first: `{ level: 'bad' or 'warn', node, text }`. `before` has the nodes as they were at
 * the beginning of the time that an alarm is of.
 */
export function alarms(before, after) {
  const found = [];
  const say = (level, node, text) => found.push({ level, node, text });
  const earlier = new Map((before?.nodes ?? []).map((node) => [node.node, node]));
  for (const node of after.silent ?? []) say('bad', node, 'does not answer');
  for (const node of after.nodes) {
    const name = node.node;
    if (node.broker !== 'ok') say('bad', name, `broker: ${node.broker}`);
    else if (node.not_ready) say('bad', name, `not ready: ${node.not_ready}`);
    if (!['ok', 'off'].includes(node.presence)) say('bad', name, `presence: ${node.presence}`);
    if (node.degraded) say('warn', name, node.degraded);
    for (const [metric, text] of STALE) if (value(node, metric) > 0) say('warn', name, text);
    for (const [metric, text] of FAULTS) if (hasGrown(earlier.get(name), node, metric)) say('warn', name, text);
    if (node.sessions >= node.max_connections * NEARLY) say('warn', name, 'nearly as many sessions as are allowed');
    const [open, most] = [value(node, 'process_open_fds'), value(node, 'process_max_fds')];
    if (open > most * NEARLY) say('warn', name, 'nearly as many files open as the system allows');
  }
  if (after.unreached) say('warn', '', `other nodes could not be asked: ${after.unreached}`);
  const versions = new Set(after.nodes.map((node) => node.version));
  if (versions.size > 1) say('warn', '', `the nodes are of several versions: ${[...versions].sort().join(', ')}`);
  return found.sort((a, b) => a.level.localeCompare(b.level));
}
