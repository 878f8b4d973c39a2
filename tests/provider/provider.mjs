// An identity provider for the whole-system tests: node-oidc-provider over people in a file, which is read anew each time.
//
//   node provider.mjs ISSUER CERTIFICATE KEY PEOPLE
//
// PEOPLE is JSON: {"ann": {"groups": ["staff"], "disabled": false}}. Whoever types a name is that person.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import Provider from 'oidc-provider';

const [issuer, certificate, key, people] = process.argv.slice(2);

const account = (_, sub) => {
  const person = JSON.parse(readFileSync(people, 'utf8'))[sub];
  if (!person || person.disabled) return undefined;
  const claims = () => ({
    sub,
    groups: person.groups,
    preferred_username: sub,
    email: `${sub}@corp.example`,
  });
  return { accountId: sub, claims };
};

const provider = new Provider(issuer, {
  findAccount: account,
  clients: [
    {
      client_id: 'umbra',
      client_secret: 'a secret of the tests: 0123456789',
      application_type: 'native',
      redirect_uris: ['http://127.0.0.1/callback'],
      grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
      response_types: ['code'],
    },
  ],
  claims: { openid: ['sub', 'auth_time'], profile: ['preferred_username'], email: ['email'], groups: ['groups'] },
  scopes: ['openid', 'offline_access', 'profile', 'email', 'groups'],
  conformIdTokenClaims: false,
  features: { deviceFlow: { enabled: true }, devInteractions: { enabled: true } },
  issueRefreshToken: async () => true,
  // Nobody is asked what they consent to: it is their organisation's program.
  loadExistingGrant: async (ctx) => {
    const grant = new ctx.oidc.provider.Grant({
      clientId: ctx.oidc.client.clientId,
      accountId: ctx.oidc.session.accountId,
    });
    grant.addOIDCScope('openid offline_access profile email groups');
    await grant.save();
    return grant;
  },
  cookies: { keys: ['of the tests'] },
});

const { hostname, port } = new URL(issuer);
const server = createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, provider.callback());
server.listen(Number(port), hostname, () => console.log('ready'));
