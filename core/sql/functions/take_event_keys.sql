-- Takes the idempotency keys of new events, in the order of the keys. Two transactions with the same key wait for each
-- other; keys are locked before lanes. The arrays of the result have one place for each key, NULL where the key is new.
-- Where it is known, `known` has its event, known_fingerprints the fingerprint of the first request, and known_answers
-- the answer to it. `repeated` has the new events that must not be stored, because their keys belong to others. With
-- all_or_nothing, a key that was used for a different request undoes everything (SQLSTATE PR409).
CREATE OR REPLACE FUNCTION take_event_keys(
    keys event_key[], key_ttl_ms bigint, all_or_nothing boolean,
    OUT known uuid[], OUT known_fingerprints bytea[], OUT known_answers bytea[], OUT repeated uuid[]
) LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t   constant timestamptz := clock_timestamp();
    won uuid[];                   -- new events whose keys were not known
BEGIN
    WITH winners AS (
        INSERT INTO idempotency_keys AS k (tenant_id, key, fingerprint, event_id, answer, expires_at)
        SELECT DISTINCT ON (i.tenant_id, i.key) i.tenant_id, i.key, i.fingerprint, i.event_id, i.answer,
               t + make_interval(secs => key_ttl_ms / 1000.0)
          FROM unnest(keys) i
         ORDER BY i.tenant_id, i.key
            ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE
           SET fingerprint = EXCLUDED.fingerprint, event_id = EXCLUDED.event_id, answer = EXCLUDED.answer,
               expires_at = EXCLUDED.expires_at
         WHERE k.expires_at <= t
        RETURNING k.event_id
    )
    SELECT coalesce(array_agg(winners.event_id), '{}') INTO won FROM winners;

    SELECT array_agg(k.event_id ORDER BY i.n), array_agg(k.fingerprint ORDER BY i.n), array_agg(k.answer ORDER BY i.n),
           coalesce(array_agg(i.event_id) FILTER (WHERE k.is_lost), '{}')
      INTO known, known_fingerprints, known_answers, repeated
      FROM unnest(keys) WITH ORDINALITY AS i (event_id, tenant_id, key, fingerprint, answer, n)
      LEFT JOIN LATERAL (SELECT x.event_id, x.fingerprint, x.answer, true AS is_lost FROM idempotency_keys x
                          WHERE x.tenant_id = i.tenant_id AND x.key = i.key AND i.event_id <> ALL (won)
                         OFFSET 0) k ON true;

    IF all_or_nothing AND EXISTS (
        SELECT FROM unnest(keys) WITH ORDINALITY AS i (event_id, tenant_id, key, fingerprint, answer, n)
         WHERE known_fingerprints[i.n] <> i.fingerprint)
    THEN
        RAISE EXCEPTION 'an idempotency key has been used for another request' USING ERRCODE = 'PR409';
    END IF;
END $$;
