-- Stores an event with its one inline delivery and that delivery's destination; returns what accept() returns.
CREATE OR REPLACE FUNCTION accept_inline(
    new_event new_event, new_delivery new_delivery, keys event_key[], key_ttl_ms bigint,
    target_url text, retry_policy jsonb, timeout_ms integer, secret bytea, headers bytea, signature_scheme text,
    OUT armed uuid[], OUT known uuid[], OUT known_fingerprints bytea[], OUT known_answers bytea[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    SELECT a.* INTO armed, known, known_fingerprints, known_answers
      FROM accept(ARRAY[new_event], ARRAY[new_delivery], keys, key_ttl_ms, false, false) a;
    IF known_fingerprints[1] IS NULL THEN
        INSERT INTO inline_deliveries
               (delivery_id, lane_id, target_url, retry_policy, timeout_ms, secret, headers, signature_scheme)
        VALUES (new_delivery.id, new_delivery.lane_id, target_url, retry_policy, timeout_ms, secret, headers,
                signature_scheme);
    END IF;
END $$;
