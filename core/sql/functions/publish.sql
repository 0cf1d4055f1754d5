-- publish(): accepts an event from SQL, inside the caller's own transaction. A worker fans the event out after the
-- commit; a rollback leaves nothing. The function runs with its owner's rights and its own search_path, so a caller
-- needs only the right to call it. core/sql/publisher_role.sql creates a role that has this right and no other.
-- traceparent and tracestate name the caller's place in a trace, as the headers of the W3C Trace Context do. The worker
-- judges them: an invalid one is ignored. They are no part of what makes two calls with one key the same.
CREATE OR REPLACE FUNCTION publish(
    event_type text, payload jsonb, tenant text DEFAULT 'default', metadata jsonb DEFAULT NULL,
    idempotency_key text DEFAULT NULL, ordering_key text DEFAULT NULL,
    deliver_at timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL,
    traceparent text DEFAULT NULL, tracestate text DEFAULT NULL
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    t        constant timestamptz := clock_timestamp();
    id       constant uuid := uuid_v7();
    known_id uuid;
BEGIN
    PERFORM check_publication(event_type, payload, tenant, metadata, idempotency_key, ordering_key, deliver_at,
                              expires_at, t);
    IF idempotency_key IS NOT NULL THEN
        known_id := take_publication_key(tenant, idempotency_key,
            sha256(convert_to(jsonb_build_array(event_type, payload, metadata, ordering_key,
                extract(epoch FROM deliver_at), extract(epoch FROM expires_at))::text, 'UTF8')),
            id, t);
        IF known_id IS NOT NULL THEN
            RETURN 'evt_' || replace(known_id::text, '-', '');
        END IF;
    END IF;
    INSERT INTO outbox (event_id, tenant_id, event_type, payload, metadata, ordering_key, deliver_at, expires_at,
                        traceparent, tracestate)
    VALUES (id, tenant, event_type, convert_to(payload::text, 'UTF8'), nullif(metadata, '{}'), ordering_key,
            CASE WHEN deliver_at > t THEN deliver_at END, expires_at,
            -- Nothing longer than this can be valid (core/src/event/trace_context.rs).
            CASE WHEN length(traceparent) <= 255 THEN traceparent END,
            CASE WHEN length(tracestate) <= 4096 THEN tracestate END);
    PERFORM pg_notify(current_schema() || '_outbox', '');
    RETURN 'evt_' || replace(id::text, '-', '');
END $$;

DO $$
DECLARE
    publish constant text := 'publish(text, jsonb, text, jsonb, text, text, timestamptz, timestamptz, text, text)';
BEGIN
    -- pg_temp comes last: otherwise a caller's temporary table would be found before ours.
    EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', publish, current_schema());
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', publish);
END $$;
