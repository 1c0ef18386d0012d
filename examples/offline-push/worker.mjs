// Pushes messages for those who are away: reads the exchange `offline`, and posts each message to a
// webhook, or sends it to the user's browsers by Web Push.
//
//   npm install
//   WEBHOOK_URL=http://127.0.0.1:8080/push WEBHOOK_SECRET=... node worker.mjs
//   DEVICES=devices.json VAPID_PUBLIC=... VAPID_PRIVATE=... VAPID_SUBJECT=mailto:ops@example.com node worker.mjs
//
// Environment: AMQP_URL (default amqp://guest:guest@127.0.0.1:5672/%2F), OFFLINE_EXCHANGE (offline),
// OFFLINE_QUEUE (offline-push).
import { connect } from 'amqplib';
import { Refused, persist } from './persist.mjs';
import { Recent } from './recent.mjs';
import { Webhook } from './webhook.mjs';

const {
  AMQP_URL = 'amqp://guest:guest@127.0.0.1:5672/%2F',
  OFFLINE_EXCHANGE = 'offline',
  OFFLINE_QUEUE = 'offline-push',
  WEBHOOK_URL,
  WEBHOOK_SECRET,
} = process.env;

const way = WEBHOOK_URL
  ? new Webhook(WEBHOOK_URL, WEBHOOK_SECRET)
  : await (await import('./web-push.mjs')).WebPush.fromEnvironment();
// A message may come twice: after a lost connection, or when a node was killed.
const recent = new Recent(10_000);

const connection = await connect(AMQP_URL);
const channel = await connection.createChannel();
await channel.assertExchange(OFFLINE_EXCHANGE, 'topic', { durable: true });
await channel.assertQueue(OFFLINE_QUEUE, { durable: true });
await channel.bindQueue(OFFLINE_QUEUE, OFFLINE_EXCHANGE, '#');
await channel.prefetch(20);
await channel.consume(OFFLINE_QUEUE, async (delivery) => {
  if (delivery === null) {
    fail(new Error('RabbitMQ cancelled the consumer'));
  }
  const { headers = {}, messageId } = delivery.properties;
  const message = {
    id: messageId,
    user: headers['x-offline-user'],
    key: headers['x-offline-key'],
    reason: headers['x-offline-reason'],
    body: delivery.content.toString(),
  };
  try {
    await push(message);
    channel.ack(delivery);
  } catch (error) {
    const isRefused = error instanceof Refused;
    console.log(`${isRefused ? 'given up' : 'back to the queue'}: ${message.user} ${message.id}: ${error.message}`);
    // Given up: to a dead-letter exchange, if the queue has one. All else comes again, at once.
    channel.nack(delivery, false, !isRefused);
  }
});
channel.on('error', fail);
connection.on('error', fail);
connection.on('close', () => fail(new Error('the connection is closed')));
console.log('waiting for messages');

async function push(message) {
  if (message.id && recent.has(`${message.user} ${message.id}`)) {
    console.log(`again: ${message.user} ${message.id}`);
    return;
  }
  const onfailure = (error) => console.log(`again soon: ${message.user}: ${error.message}`);
  const count = await persist(() => way.push(message), onfailure);
  console.log(`pushed: ${message.user} ${message.body} (${count})`);
  if (message.id) {
    recent.add(`${message.user} ${message.id}`);
  }
}

// Whoever runs this starts it again: unacknowledged messages come once more.
function fail(error) {
  console.error(error.message);
  process.exit(1);
}
