-- How deliveries are signed and what opens the way in: signature schemes, secrets that overlap, ingest authentication,
-- and rate limits.

ALTER TABLE subscriptions
    ADD COLUMN signature_scheme text NOT NULL DEFAULT 'standard',
    ADD COLUMN ingest_auth      text NOT NULL DEFAULT 'key_or_signature',
    ADD COLUMN ingest_signature bytea,                       -- sealed JSON; NULL means X-Hub-Signature-256 with the own secret
    ADD COLUMN ingest_rate_limit_per_second integer;         -- NULL means none

-- Secrets that have been replaced and go on signing for a while. A change here always comes with one of the
-- subscription's own row, which announces it.
CREATE TABLE previous_secrets (
    subscription_id uuid NOT NULL REFERENCES subscriptions,
    replaced_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    secret          bytea NOT NULL,                          -- sealed, as it was in subscriptions
    expires_at      timestamptz NOT NULL,
    PRIMARY KEY (subscription_id, replaced_at)
);
CREATE INDEX previous_secrets_expiry ON previous_secrets (expires_at);

ALTER TABLE api_keys ADD COLUMN rate_limit_per_second integer; -- of requests that post events; NULL means none

ALTER TABLE inline_deliveries ADD COLUMN signature_scheme text NOT NULL DEFAULT 'standard';

DROP FUNCTION accept_inline;
-- As before, with the scheme that the delivery is signed by.
CREATE FUNCTION accept_inline(
    event_id uuid, tenant_id text, event_type text, content_type text, payload bytea, metadata jsonb,
    deliver_at timestamptz, expires_at timestamptz, key text, fingerprint bytea, answer bytea, key_ttl_ms bigint,
    delivery_id uuid, lane_id uuid, target_url text, retry_policy jsonb, timeout_ms integer, lease_ms integer,
    secret bytea, headers bytea, signature_scheme text,
    OUT armed uuid[], OUT known uuid[], OUT known_fingerprints bytea[], OUT known_answers bytea[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    SELECT a.* INTO armed, known, known_fingerprints, known_answers
      FROM accept(ARRAY[event_id], ARRAY[tenant_id], ARRAY[event_type], ARRAY[NULL::uuid], ARRAY[content_type],
                  ARRAY[payload], ARRAY[metadata], ARRAY[NULL::text], ARRAY[NULL::text], ARRAY[deliver_at],
                  ARRAY[expires_at], ARRAY[key], ARRAY[fingerprint], ARRAY[answer], key_ttl_ms, false,
                  ARRAY[delivery_id], ARRAY[event_id], ARRAY[tenant_id], ARRAY[NULL::uuid], ARRAY[lane_id],
                  ARRAY[lease_ms], ARRAY[deliver_at]) a;
    IF known_fingerprints[1] IS NULL THEN
        INSERT INTO inline_deliveries
               (delivery_id, lane_id, target_url, retry_policy, timeout_ms, secret, headers, signature_scheme)
        VALUES (delivery_id, lane_id, target_url, retry_policy, timeout_ms, secret, headers, signature_scheme);
    END IF;
END $$;
