// A program that a test drives: one JSON object a line comes in, an order with its name as `do`;
// one a line goes out for each thing that happens, with its name as `event`.
import { createInterface } from 'node:readline';

/** Tells the test that something happened. */
export function tell(event, details = {}) {
  process.stdout.write(`${JSON.stringify({ event, ...details })}\n`);
}

/** Carries out the test's orders, one after the other, until the test closes the pipe. */
export async function obey(orders) {
  process.on('uncaughtException', fail);
  process.on('unhandledRejection', fail);
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, ...details } = JSON.parse(line);
    if (!Object.hasOwn(orders, name)) fail(new Error(`no such order: ${name}`));
    await orders[name](details);
  }
  process.exit(0);
}

function fail(error) {
  tell('failed', { why: String(error?.stack ?? error) });
  // A pipe may still hold what was told.
  process.stdout.write('', () => process.exit(1));
}
