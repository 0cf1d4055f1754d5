// Verifies `v1a` deliveries with Node's own Ed25519, because no official Standard Webhooks library knows it: once with
// the public key by itself, and once with the JSON Web Key Set.
//
// Standard input has one case in each line, as JSON: {name, public_key, jwks, headers, body_base64, expect}, where
// `expect` is `verified` or `refused`, with either key. The exit code is 1 if a case ends differently.

import { createPublicKey, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';

// A SubjectPublicKeyInfo of an Ed25519 key is these bytes and then the 32 bytes of the key (RFC 8410 §4).
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');
const TOLERANCE_SECONDS = 300;

function ofText(text) {
  if (!text.startsWith('whpk_')) throw new Error(`not a public key: ${text}`);
  const bytes = Buffer.from(text.slice('whpk_'.length), 'base64');
  if (bytes.length !== 32) throw new Error(`${bytes.length} bytes in ${text}`);
  return createPublicKey({ key: Buffer.concat([SPKI_PREFIX, bytes]), format: 'der', type: 'spki' });
}

function ofSet(jwks) {
  if (new Set(jwks.keys.map((key) => key.kid)).size !== jwks.keys.length) throw new Error('two keys of one name');
  return jwks.keys.map((key) => createPublicKey({ key, format: 'jwk' }));
}

function outcome(keys, headers, body) {
  const timestamp = headers['webhook-timestamp'];
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS) return 'refused';
  const signed = Buffer.concat([Buffer.from(`${headers['webhook-id']}.${timestamp}.`), body]);
  const entries = headers['webhook-signature'].split(' ').map((entry) => entry.split(','));
  const signatures = entries.filter(([version]) => version === 'v1a').map(([, text]) => Buffer.from(text, 'base64'));
  const fits = keys.some((key) => signatures.some((signature) => verify(null, signed, key, signature)));
  return fits ? 'verified' : 'refused';
}

const lines = readFileSync(0, 'utf8').split('\n').filter((line) => line.trim() !== '');
const cases = lines.map((line) => JSON.parse(line));
const wrong = cases.filter(({ public_key, jwks, headers, body_base64, expect }) => {
  const body = Buffer.from(body_base64, 'base64');
  return [[ofText(public_key)], ofSet(jwks)].some((keys) => outcome(keys, headers, body) !== expect);
});
for (const { name } of wrong) console.log(`not as expected: ${name}`);
if (wrong.length > 0) process.exit(1);
console.log(`${cases.length} cases as expected`);
