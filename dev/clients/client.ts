// A newcomer's program on the TypeScript types that `openapi-typescript` makes of `/openapi.json`: it creates a
// subscription, publishes events, pages through their deliveries and reads problems, all as typed values.
//
// Arguments: the base URL of the api, an API key, the URL of a receiver. Throws where something is not as it should be.

import createClient from 'openapi-fetch';
import type { components, paths } from './schema.d.ts';

declare const process: { argv: string[] };

type Subscription = components['schemas']['Subscription'];
type Delivery = components['schemas']['Delivery'];
type Problem = components['schemas']['Problem'];

const EVENTS = 5;
const PAGE = 2;

const [baseUrl = '', key = '', receiver = ''] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl, headers: { authorization: `Bearer ${key}` } });

function expect(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what);
}

async function createSubscription(): Promise<Subscription> {
  const { data, error } = await client.POST('/subscriptions', {
    body: { target_url: receiver, event_types: ['typescript.*'], retry_policy: { delays_seconds: [5, 60] } },
  });
  if (error) throw new Error(error.detail);
  expect(data.state === 'active' && data.secret !== undefined, 'an active subscription that shows its secret');
  return data;
}

async function publish(number: number): Promise<string[]> {
  const { data, error } = await client.POST('/events', {
    params: { header: { 'Idempotency-Key': `typescript-${number}` } },
    body: { event_type: 'typescript.ran', payload: { number }, metadata: { region: 'eu' } },
  });
  if (error) throw new Error(error.detail);
  return data.delivery_ids;
}

async function deliveriesOf(subscription_id: string): Promise<Delivery[]> {
  const found: Delivery[] = [];
  let cursor: string | undefined;
  do {
    const query = { subscription_id, limit: PAGE, ...(cursor === undefined ? {} : { cursor }) };
    const { data, error } = await client.GET('/deliveries', { params: { query } });
    if (error) throw new Error(error.detail);
    expect(data.data.length <= PAGE, 'a page of that size');
    found.push(...data.data);
    cursor = data.next_cursor;
  } while (cursor !== undefined);
  return found;
}

const subscription = await createSubscription();
const published: string[] = [];
for (let number = 0; number < EVENTS; number += 1) published.push(...(await publish(number)));
const deliveries = await deliveriesOf(subscription.id);
expect(
  published.length === EVENTS && deliveries.map(({ id }) => id).reverse().join() === published.join(),
  'every delivery is listed once, the newest first',
);
expect(deliveries.every(({ status, attempt_count }) => status === 'pending' && attempt_count === 0), 'they wait');

const missing = await client.GET('/subscriptions/{id}', { params: { path: { id: `sub_${'0'.repeat(32)}` } } });
const unknown: Problem | undefined = missing.error;
expect(unknown?.status === 404 && unknown.code === 'not_found', 'a problem that says 404');
const invalid = await client.POST('/subscriptions', { body: { target_url: receiver, timeout_ms: 1 } });
const broken: Problem | undefined = invalid.error;
expect(broken?.status === 422 && broken.errors?.[0]?.field === 'timeout_ms', 'a problem that names the field');

const gone = await client.DELETE('/subscriptions/{id}', { params: { path: { id: subscription.id } } });
expect(gone.response.status === 204, 'it is deleted');
