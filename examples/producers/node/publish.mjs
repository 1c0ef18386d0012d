// A backend pushes to a user, with amqplib.
//
//   npm install
//   node publish.mjs user_alice '{"order":4711,"state":"shipped"}'          (routing key, body)
//
// Environment: AMQP_URL (default amqp://guest:guest@127.0.0.1:5672/%2F).
import { connect } from 'amqplib';

const [key = 'user_alice', body = 'Hello from Node'] = process.argv.slice(2);
const connection = await connect(process.env.AMQP_URL ?? 'amqp://guest:guest@127.0.0.1:5672/%2F');
const channel = await connection.createConfirmChannel();

channel.publish('feed', key, Buffer.from(body), { contentType: 'text/plain;charset=utf-8' });
await channel.waitForConfirms();
console.log(`published to feed, key ${key}`);

await connection.close();
