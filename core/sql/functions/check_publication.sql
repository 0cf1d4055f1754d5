-- Raises an error if an event that is published by SQL breaks a rule. The limits are the same as for POST /events.
CREATE OR REPLACE FUNCTION check_publication(
    event_type text, payload jsonb, tenant text, metadata jsonb, idempotency_key text, ordering_key text,
    deliver_at timestamptz, expires_at timestamptz, t timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    payload_bytes_max constant integer := 1048576;
    -- Arrays and objects inside of 512 others. No filter reads them (core/src/event/json.rs), and an event must not be
    -- filtered away in silence.
    too_deep          constant jsonpath := 'strict $.**{512} ? (@.type() == "array" || @.type() == "object")';
    problem           text;
BEGIN
    problem := CASE
        WHEN event_type IS NULL OR length(event_type) > 128
             OR event_type !~ '^[A-Za-z0-9_-]+([./:][A-Za-z0-9_-]+)*$' THEN
            'event_type must be segments of letters, digits, `_` and `-` joined by `.`, `/` or `:`, '
            'at most 128 characters long'
        WHEN payload IS NULL OR octet_length(convert_to(payload::text, 'UTF8')) > payload_bytes_max THEN
            format('payload must not be NULL, and at most %s bytes long as text', payload_bytes_max)
        WHEN jsonb_path_exists(payload, too_deep) THEN
            'payload must be nested at most 512 deep'
        WHEN tenant IS NULL OR length(tenant) NOT BETWEEN 1 AND 64 OR tenant ~ '[[:cntrl:]]' THEN
            'tenant must be 1 to 64 characters, none of them a control character'
        WHEN length(idempotency_key) NOT BETWEEN 1 AND 255 OR idempotency_key ~ '[[:cntrl:]]' THEN
            'idempotency_key must be 1 to 255 characters, none of them a control character'
        WHEN length(ordering_key) NOT BETWEEN 1 AND 255 OR ordering_key ~ '[[:cntrl:]]' THEN
            'ordering_key must be 1 to 255 characters, none of them a control character'
        WHEN deliver_at > t + interval '366 days' THEN
            'deliver_at must be at most 366 days ahead'
        WHEN expires_at <= greatest(t, deliver_at) OR expires_at > t + interval '732 days' THEN
            'expires_at must be in the future, after deliver_at, and at most two years ahead'
        WHEN jsonb_typeof(metadata) <> 'object' THEN
            'metadata must be an object of strings'
    END;
    IF problem IS NULL AND metadata IS NOT NULL
       AND ((SELECT count(*) FROM jsonb_object_keys(metadata)) > 50
            OR EXISTS (SELECT FROM jsonb_each(metadata) m
                        WHERE jsonb_typeof(m.value) <> 'string' OR length(m.value #>> '{}') > 512
                           OR length(m.key) NOT BETWEEN 1 AND 64 OR m.key ~ '[[:cntrl:]]'))
    THEN
        problem := 'metadata must be at most 50 strings of at most 512 characters, with keys of 1 to 64 characters';
    END IF;
    IF problem IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = problem;
    END IF;
END $$;
