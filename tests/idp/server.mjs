// A real OpenID provider (oidc-provider, certified by the OpenID Foundation) for the tests and for `freehold dev`.
// Loopback only, no passwords, everything in memory: whoever can reach it signs in as anybody. Never for production.
//
//   node server.mjs
//
// Takes lines of JSON on stdin, so that no secret is in the list of processes, and answers with lines of JSON:
//
//   {"port":0,"forget":true,"clients":[{"client_id":"…","client_secret":"…","redirect_uris":["http://…"]}]}
//   → {"issuer":"http://127.0.0.1:<port>"}   the first line: it listens
//   {"rotate":true}
//   → {"kid":"…"}                            it forgot its keys and signs with a new one
//   {"ahead_ms":86400000}
//                                            its clock is that far ahead of the machine's; no answer
//
// `forget`: it asks each time who it is, also whom it knows. On one machine, people take turns.
// Ends when its stdin closes.
import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import Provider from 'oidc-provider';

import { signInPage } from './page.mjs';

/** Its time: the platform's, which a developer may have moved. */
let ahead = 0;
const MachineDate = Date;
globalThis.Date = class extends MachineDate {
  constructor(...given) {
    if (given.length === 0) super(MachineDate.now() + ahead);
    else super(...given);
  }
  static now() {
    return MachineDate.now() + ahead;
  }
};

/** Who signs in by typing this name. */
const PEOPLE = {
  ada: { name: 'Ada Lovelace', email: 'ada@example.com', email_verified: true },
  grace: { name: 'Grace Hopper', email: 'grace@example.com', email_verified: true },
  // Says that she is Ada; nobody checked.
  mallory: { name: 'Mallory', email: 'ada@example.com', email_verified: false },
};

/** What is said of somebody: an address is its owner's, and any other name has none. */
const claims_of = (id) => {
  if (PEOPLE[id]) return { sub: id, ...PEOPLE[id] };
  if (/^[^@\s]+@[^@\s]+$/.test(id)) return { sub: id, name: id.split('@')[0], email: id, email_verified: true };
  return { sub: id };
};

/** Nobody is asked whether this site may know their name: it is ours. */
const granted = async (ctx) => {
  const { client, session, provider } = ctx.oidc;
  const known = session.grantIdFor(client.clientId);
  const found = known && (await provider.Grant.find(known));
  if (found?.accountId === session.accountId) return found;
  const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope('openid profile email');
  await grant.save();
  return grant;
};

const provider_of = (issuer, keys, clients) => {
  const provider = new Provider(issuer, {
    clients: clients.map((client) => ({
      grant_types: ['authorization_code'], response_types: ['code'], ...client,
    })),
    jwks: { keys },
    cookies: { keys: [randomBytes(32).toString('hex')] },
    claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'] },
    // Claims are asked for by scope and read from the ID token, as of Google and most others.
    conformIdTokenClaims: false,
    features: { devInteractions: { enabled: false } },
    interactions: { url: (_ctx, { uid }) => `/interaction/${uid}` },
    loadExistingGrant: granted,
    pkce: { required: () => true, methods: ['S256'] },
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => claims_of(id) }),
    ttl: { Session: 3600, Interaction: 600, Grant: 3600, AccessToken: 600, IdToken: 600 },
  });
  provider.on('server_error', (_ctx, error) => console.error(error));
  return provider;
};

const key = () => {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
};

const MOST = 4096;
const form_of = async (request) => {
  let text = '';
  for await (const chunk of request) {
    text += chunk;
    if (text.length > MOST) throw new Error('too long');
  }
  return new URLSearchParams(text);
};

/** `GET` and `POST /interaction/<uid>`: who is it? `GET /interaction/<uid>/abort`: nobody. */
const interact = async (provider, request, response, abort) => {
  const finish = (result) =>
    provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
  const { uid, params } = await provider.interactionDetails(request, response);
  if (abort) return finish({ error: 'access_denied', error_description: 'declined by the person' });
  const login = request.method === 'POST' ? (await form_of(request)).get('login')?.trim() : undefined;
  if (login && login.length <= 200) return finish({ login: { accountId: login } });
  response.writeHead(200, {
    'content-type': 'text/html; charset=utf-8',
    'cache-control': 'no-store',
    'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
  });
  return response.end(signInPage({ uid, client: params.client_id, people: PEOPLE }));
};

const lines = createInterface({ input: process.stdin });
const say = (value) => console.log(JSON.stringify(value));

let provider;
let rotate;
let forget = false;
const server = createServer((request, response) => {
  const [path] = request.url.split('?');
  const [, abort] = /^\/interaction\/[\w-]+(\/abort)?$/.exec(path) ?? [];
  if (forget && path === '/auth') delete request.headers.cookie;
  if (!path.startsWith('/interaction/')) return provider.callback()(request, response);
  return interact(provider, request, response, abort !== undefined).catch((error) => {
    response.writeHead(400, { 'content-type': 'text/plain; charset=utf-8' });
    response.end(`This sign-in is over (${error.message}). Go back to the site and begin again.\n`);
  });
});

lines.on('line', (line) => {
  const said = JSON.parse(line);
  if (rotate === undefined) {
    forget = said.forget === true;
    rotate = () => {
      const next = key();
      provider = provider_of(`http://127.0.0.1:${server.address().port}`, [next], said.clients ?? []);
      return next.kid;
    };
    server.listen(said.port ?? 0, '127.0.0.1', () => {
      rotate();
      say({ issuer: provider.issuer });
    });
  } else if (said.rotate) {
    say({ kid: rotate() });
  } else if (typeof said.ahead_ms === 'number') {
    ahead = said.ahead_ms;
  }
});
lines.on('close', () => process.exit(0));
