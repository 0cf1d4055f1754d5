-- The part of record_outcomes() that puts deliveries back into the queue. Returns those that were put back, with the
-- lane of each, and when it is due.
CREATE OR REPLACE FUNCTION put_back_outcomes(
    outcomes outcome[], t timestamptz, OUT put_back uuid[], OUT put_back_in uuid[], OUT dues timestamptz[]
) LANGUAGE plpgsql AS $$
DECLARE
    ids      uuid[];                 -- of each outcome, position by position
    tokens   bigint[];
    delays   bigint[];
    excused  integer[];
    not_made integer[];
BEGIN
    SELECT array_agg(i.delivery_id), array_agg(i.lease_token), array_agg(i.delay_ms),
           array_agg(i.is_excused::integer), array_agg((i.started_at IS NULL)::integer)
      INTO ids, tokens, delays, excused, not_made
      FROM unnest(outcomes) i;
    WITH back AS (
        UPDATE queue q
           SET lease_token = NULL,
               due_at = t + make_interval(secs => delays[array_position(ids, q.delivery_id)] / 1000.0),
               attempt_count = q.attempt_count - not_made[array_position(ids, q.delivery_id)],
               attempts_before = q.attempts_before + excused[array_position(ids, q.delivery_id)],
               releases = q.releases + (excused[array_position(ids, q.delivery_id)]
                                        | not_made[array_position(ids, q.delivery_id)])
         WHERE q.ctid = ANY (ARRAY(
               SELECT x.tid FROM unnest(outcomes) i
                CROSS JOIN LATERAL (SELECT q2.ctid AS tid FROM queue q2
                                     WHERE q2.delivery_id = i.delivery_id AND q2.lease_token = i.lease_token
                                       AND i.status = 'pending' OFFSET 0) x))
           AND q.lease_token = tokens[array_position(ids, q.delivery_id)]
        RETURNING q.delivery_id, q.lane_id, q.due_at
    )
    SELECT coalesce(array_agg(b.delivery_id), '{}'), coalesce(array_agg(b.lane_id), '{}'),
           coalesce(array_agg(b.due_at), '{}')
      INTO put_back, put_back_in, dues
      FROM back b;
END $$;
