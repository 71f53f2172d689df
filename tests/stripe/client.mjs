// Stripe's own library, driven over stdin: one JSON command a line, one JSON answer a line. Ends with its stdin.
import { createInterface } from 'node:readline';
import Stripe from 'stripe';

let stripe;

const commands = {
  // Where to ask, with which key.
  connect: ({ host, port, key }) => {
    stripe = new Stripe(key, { host, port, protocol: 'http', maxNetworkRetries: 0, telemetry: false });
    return { version: Stripe.PACKAGE_VERSION, api: stripe.getApiField('version') };
  },
  // A call by its name in the library: `billing.meterEvents.create`.
  call: async ({ name, args }) => {
    const parts = name.split('.');
    const method = parts.pop();
    const of = parts.reduce((at, part) => at[part], stripe);
    return await of[method](...args);
  },
  // Follows all pages of a list, and gives the ids.
  all: async ({ name, args }) => {
    const parts = name.split('.');
    const method = parts.pop();
    const of = parts.reduce((at, part) => at[part], stripe);
    const ids = [];
    for await (const one of of[method](...args)) ids.push(one.id);
    return ids;
  },
  sign: ({ payload, secret, timestamp }) =>
    Stripe.webhooks.generateTestHeaderString({ payload, secret, timestamp }),
  // What the library makes of a delivery.
  construct: ({ payload, header, secret }) => Stripe.webhooks.constructEvent(payload, header, secret, 300),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: what, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: (await commands[what](rest)) ?? null };
  } catch (error) {
    answer = {
      error: { type: error.type ?? error.name, code: error.code, status: error.statusCode, message: error.message },
    };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
