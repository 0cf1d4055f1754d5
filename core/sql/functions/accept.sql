-- Stores events, the deliveries that they cause, and the idempotency keys that came with them. An event whose key is
-- known already is not stored, nor are its deliveries; take_event_keys() describes the result for such a key. The
-- result `armed` has the lanes whose workers need a wake-up. With `notifies`, this transaction's commit wakes them;
-- commits that notify wait for each other, so that is for small batches only. All other lanes were left alone; the
-- caller hands them to wake() after the commit.
CREATE OR REPLACE FUNCTION accept(
    new_events new_event[], new_deliveries new_delivery[], keys event_key[], key_ttl_ms bigint, all_or_nothing boolean,
    notifies boolean,
    OUT armed uuid[], OUT known uuid[], OUT known_fingerprints bytea[], OUT known_answers bytea[]
) LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t        constant timestamptz := clock_timestamp();
    repeated uuid[] := '{}';        -- events that are not stored, because their keys belong to others
BEGIN
    armed := '{}';
    IF cardinality(keys) > 0 THEN
        SELECT k.known, k.known_fingerprints, k.known_answers, k.repeated
          INTO known, known_fingerprints, known_answers, repeated
          FROM take_event_keys(keys, key_ttl_ms, all_or_nothing) k;
    END IF;

    INSERT INTO events (id, tenant_id, event_type, subscription_id, is_inline, content_type, content_encoding, payload,
                        metadata, external_id, ordering_key, deliver_at, expires_at, traceparent, tracestate,
                        created_at)
    SELECT i.id, i.tenant_id, i.event_type, i.posted_to, i.is_inline, i.content_type, i.content_encoding, i.payload,
           i.metadata, i.external_id, i.ordering_key, i.deliver_at, i.expires_at, i.traceparent, i.tracestate, t
      FROM unnest(new_events) i
     WHERE repeated = '{}' OR i.id <> ALL (repeated);

    IF repeated <> '{}' THEN
        new_deliveries := ARRAY(SELECT d FROM unnest(new_deliveries) d WHERE d.event_id <> ALL (repeated));
    END IF;
    IF cardinality(new_deliveries) > 0 THEN
        armed := store_deliveries(new_deliveries, false, NULL);
    END IF;
    IF notifies AND armed <> '{}' THEN
        PERFORM pg_notify(current_schema() || '_wake', '');
    END IF;
END $$;
