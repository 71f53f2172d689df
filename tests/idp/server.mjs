// A real OpenID provider (oidc-provider, certified by the OpenID Foundation) for tests and development. Loopback only,
// three fixed people, no passwords, everything in memory: never for production.
//
//   node server.mjs '{"port":0,"clients":[{"client_id":"…","client_secret":"…","redirect_uris":["http://…"]}]}'
//
// Prints one line of JSON, {"issuer":"http://127.0.0.1:<port>"}, when it listens. Ends when its stdin closes. A line
// {"rotate":true} on stdin makes it forget its keys and sign with a new one; it answers {"kid":"…"}.
import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import Provider from 'oidc-provider';

const options = JSON.parse(process.argv[2] ?? '{}');

/** Who signs in by typing this name. Anyone else gets an account without an address. */
const PEOPLE = {
  ada: { name: 'Ada Lovelace', email: 'ada@example.com', email_verified: true },
  grace: { name: 'Grace Hopper', email: 'grace@example.com', email_verified: true },
  // Says that she is Ada; nobody checked.
  mallory: { name: 'Mallory', email: 'ada@example.com', email_verified: false },
};

const provider_of = (issuer, keys) => {
  const provider = new Provider(issuer, {
    clients: (options.clients ?? []).map((client) => ({
      grant_types: ['authorization_code'], response_types: ['code'], ...client,
    })),
    jwks: { keys },
    cookies: { keys: [randomBytes(32).toString('hex')] },
    claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'] },
    // Claims are asked for by scope and read from the ID token, as of Google and most others.
    conformIdTokenClaims: false,
    features: { devInteractions: { enabled: true } },
    pkce: { required: () => true, methods: ['S256'] },
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id, ...PEOPLE[id] }) }),
    ttl: { Session: 3600, Interaction: 600, Grant: 3600, AccessToken: 600, IdToken: 600 },
  });
  provider.on('server_error', (_ctx, error) => console.error(error));
  return provider;
};

const key = () => {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
};

let provider;
const server = createServer((request, response) => provider.callback()(request, response));
server.listen(options.port ?? 0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  provider = provider_of(issuer, [key()]);
  console.log(JSON.stringify({ issuer }));
  createInterface({ input: process.stdin })
    .on('line', (line) => {
      if (JSON.parse(line).rotate) {
        const next = key();
        provider = provider_of(issuer, [next]);
        console.log(JSON.stringify({ kid: next.kid }));
      }
    })
    .on('close', () => process.exit(0));
});
