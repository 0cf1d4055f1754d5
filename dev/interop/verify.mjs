// Verifies deliveries with the official Standard Webhooks library. The argument is the folder whose `node_modules` has
// the library.
//
// Standard input has one case in each line, as JSON: {name, secret, headers, body_base64, expect}, where `expect` is
// `verified` or `refused`. The exit code is 1 if a case ends differently.

import { isUtf8 } from 'node:buffer';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.argv[2], 'package.json'));
const { Webhook, WebhookVerificationError } = require('standardwebhooks');

function byLibrary(secret, headers, body) {
  try {
    new Webhook(secret).verify(body, headers, { jsonParse: false });
    return 'verified';
  } catch (error) {
    if (error instanceof WebhookVerificationError) return 'refused';
    throw error;
  }
}

// Verifies without the library, for a body that is not text: the library takes text only.
function byHand(secret, headers, body) {
  const timestamp = headers['webhook-timestamp'];
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > 300) return 'refused';
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
  const mac = createHmac('sha256', key).update(`${headers['webhook-id']}.${timestamp}.`).update(body);
  return headers['webhook-signature'].split(' ').includes(`v1,${mac.digest('base64')}`) ? 'verified' : 'refused';
}

function outcome({ secret, headers, body_base64 }) {
  const body = Buffer.from(body_base64, 'base64');
  // The library takes text only.
  return isUtf8(body) ? byLibrary(secret, headers, body) : byHand(secret, headers, body);
}

const lines = readFileSync(0, 'utf8').split('\n').filter((line) => line.trim() !== '');
const cases = lines.map((line) => JSON.parse(line));
const wrong = cases.filter((one) => outcome(one) !== one.expect);
for (const { name } of wrong) console.log(`not as expected: ${name}`);
if (wrong.length > 0) process.exit(1);
console.log(`${cases.length} cases as expected`);
