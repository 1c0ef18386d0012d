// The class of docs/sending-once.md at work: sends numbered messages, has its connection cut again
// and again, and ends when all have their RECEIPT.
//
//   node sending-once.mjs '{"url": …, "login": …, "passcode": …, "host": …, "destination": …, "count": 300}'
import { Client } from "@stomp/stompjs";
import { readFileSync } from "node:fs";
import { WebSocket } from "ws";

Object.assign(globalThis, { WebSocket });

// As a reader would copy it.
const page = readFileSync(new URL("../../docs/sending-once.md", import.meta.url), "utf8");
const [code] = page.match(/const UNCERTAIN = [^]*?class Outbox {[^]*?\n}\n/);
const Outbox = new Function(`${code}; return Outbox;`)();

const order = JSON.parse(process.argv[2]);
const client = new Client({
  brokerURL: order.url,
  connectHeaders: { login: order.login, passcode: order.passcode, host: order.host },
  reconnectDelay: 20,
  onStompError: ({ headers }) => console.error(`ERROR ${headers.message}`),
});
const outbox = new Outbox(client, "node");
client.activate();

let cuts = 0;
for (let i = 1; i <= order.count; i += 1) {
  outbox.send(order.destination, String(i));
  if (i % 50 === 0) {
    await new Promise((resolve) => setTimeout(resolve, 40));
    // As a network that is gone: without a word of STOMP.
    client.forceDisconnect();
    cuts += 1;
  }
}
const deadline = Date.now() + 20_000;
while (outbox.kept.length > 0 && Date.now() < deadline) {
  await new Promise((resolve) => setTimeout(resolve, 20));
}
await client.deactivate();
console.log(JSON.stringify({ done: outbox.done, kept: outbox.kept.length, cuts }));
process.exit(outbox.kept.length === 0 ? 0 : 1);
