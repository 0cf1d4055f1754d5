-- Takes the idempotency key of an event that is published by SQL. Returns NULL if the key is new, or else the event
-- that the key belongs to. Waits for another transaction that is using the same key. The caller's transaction may be
-- long, so these keys have a namespace of their own, and no HTTP request ever waits for one.
CREATE OR REPLACE FUNCTION take_publication_key(
    tenant text, idempotency_key text, asked bytea, new_event_id uuid, t timestamptz
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    key_ttl constant interval := interval '24 hours';
    known   record;
BEGIN
    INSERT INTO idempotency_keys AS k (tenant_id, key, fingerprint, event_id, expires_at)
    VALUES (tenant, 'sql:' || idempotency_key, asked, new_event_id, t + key_ttl)
        ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE
       SET fingerprint = EXCLUDED.fingerprint, event_id = EXCLUDED.event_id, answer = NULL,
           expires_at = EXCLUDED.expires_at
     WHERE k.expires_at <= t;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    SELECT k.event_id, k.fingerprint INTO known
      FROM idempotency_keys k WHERE k.tenant_id = tenant AND k.key = 'sql:' || idempotency_key;
    IF known.fingerprint IS DISTINCT FROM asked THEN
        RAISE unique_violation USING MESSAGE = 'this idempotency_key has been used for something else';
    END IF;
    RETURN known.event_id;
END $$;
