-- publish(): an event from SQL, inside the caller's own transaction. What it stores a worker fans out after the commit;
-- a rollback leaves nothing. It runs with the rights of the owner and its own search_path, so a caller needs no right
-- but to call it; the role {schema}_publisher has that one and nothing else.

-- A fresh UUIDv7 (RFC 9562 §5.7).
CREATE FUNCTION uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT (left(r.digits, 12) || '7' || substr(r.digits, 14))::uuid
      FROM (SELECT lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
                   || substr(replace(gen_random_uuid()::text, '-', ''), 13) AS digits) r
$$;

CREATE FUNCTION publish(
    event_type text, payload jsonb, tenant text DEFAULT 'default', metadata jsonb DEFAULT NULL,
    idempotency_key text DEFAULT NULL, ordering_key text DEFAULT NULL,
    deliver_at timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    -- The limits of POST /events.
    payload_bytes_max constant integer := 1048576;
    key_ttl           constant interval := interval '24 hours';
    t                 constant timestamptz := clock_timestamp();
    id                constant uuid := uuid_v7();
    body              constant bytea := convert_to(payload::text, 'UTF8');
    asked             bytea;
    known             record;
BEGIN
    IF event_type IS NULL OR length(event_type) > 128 OR event_type !~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$' THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'event_type must be segments of letters, digits, `_` and `-` joined by dots, at most 128 characters long';
    ELSIF payload IS NULL OR length(body) > payload_bytes_max THEN
        RAISE invalid_parameter_value USING MESSAGE =
            format('payload must not be NULL, and at most %s bytes long as text', payload_bytes_max);
    ELSIF tenant IS NULL OR length(tenant) NOT BETWEEN 1 AND 64 OR tenant ~ '[[:cntrl:]]' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'tenant must be 1 to 64 characters, none of them a control character';
    ELSIF length(idempotency_key) NOT BETWEEN 1 AND 255 OR idempotency_key ~ '[[:cntrl:]]' THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'idempotency_key must be 1 to 255 characters, none of them a control character';
    ELSIF length(ordering_key) NOT BETWEEN 1 AND 255 OR ordering_key ~ '[[:cntrl:]]' THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'ordering_key must be 1 to 255 characters, none of them a control character';
    ELSIF deliver_at > t + interval '366 days' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'deliver_at must be at most 366 days ahead';
    ELSIF expires_at <= greatest(t, deliver_at) OR expires_at > t + interval '732 days' THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'expires_at must be in the future, after deliver_at, and at most two years ahead';
    ELSIF jsonb_typeof(metadata) <> 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'metadata must be an object of strings';
    ELSIF metadata IS NOT NULL AND ((SELECT count(*) FROM jsonb_object_keys(metadata)) > 50
        OR EXISTS (SELECT FROM jsonb_each(metadata) m
                    WHERE jsonb_typeof(m.value) <> 'string' OR length(m.value #>> '{}') > 512
                       OR length(m.key) NOT BETWEEN 1 AND 64 OR m.key ~ '[[:cntrl:]]')) THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'metadata must be at most 50 strings of at most 512 characters, with keys of 1 to 64 characters';
    END IF;

    IF idempotency_key IS NOT NULL THEN
        asked := sha256(convert_to(jsonb_build_array(event_type, payload, metadata, ordering_key,
                         extract(epoch FROM deliver_at), extract(epoch FROM expires_at))::text, 'UTF8'));
        -- Waits for another transaction that is using the same key at this moment. A caller's transaction may be long,
        -- so these keys have names of their own: no HTTP request ever waits for one.
        INSERT INTO idempotency_keys AS k (tenant_id, key, fingerprint, event_id, expires_at)
        VALUES (tenant, 'sql:' || idempotency_key, asked, id, t + key_ttl)
            ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE
           SET fingerprint = EXCLUDED.fingerprint, event_id = EXCLUDED.event_id, answer = NULL,
               expires_at = EXCLUDED.expires_at
         WHERE k.expires_at <= t;
        IF NOT FOUND THEN
            SELECT k.event_id, k.fingerprint INTO known
              FROM idempotency_keys k WHERE k.tenant_id = tenant AND k.key = 'sql:' || idempotency_key;
            IF known.fingerprint IS DISTINCT FROM asked THEN
                RAISE unique_violation USING MESSAGE = 'this idempotency_key has been used for something else';
            END IF;
            RETURN 'evt_' || replace(known.event_id::text, '-', '');
        END IF;
    END IF;

    INSERT INTO outbox (event_id, tenant_id, event_type, payload, metadata, ordering_key, deliver_at, expires_at)
    VALUES (id, tenant, event_type, body, nullif(metadata, '{}'), ordering_key,
            CASE WHEN deliver_at > t THEN deliver_at END, expires_at);
    PERFORM pg_notify(current_schema() || '_outbox', '');
    RETURN 'evt_' || replace(id::text, '-', '');
END $$;

DO $$
DECLARE
    publish constant text := 'publish(text, jsonb, text, jsonb, text, text, timestamptz, timestamptz)';
    role    constant text := current_schema() || '_publisher';
BEGIN
    -- pg_temp last: otherwise a caller's temporary table would be found first.
    EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', publish, current_schema());
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', publish);
    -- A role belongs to the whole server: it may be there already, or not be ours to make.
    BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN', role);
    EXCEPTION
        WHEN duplicate_object OR unique_violation THEN NULL;
        WHEN insufficient_privilege THEN
            RAISE NOTICE 'the role % was not created; grant the use of publish() by hand', role;
            RETURN;
    END;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', publish, role);
END $$;
