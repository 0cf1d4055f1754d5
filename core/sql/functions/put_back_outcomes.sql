-- The part of record_outcomes() that puts deliveries back into the queue, and updates their lanes: a lane must be due
-- for the earliest row put back, and must rest as long as its receiver asked. Outcomes that finished their deliveries
-- may ask for a rest too (`finished`, with the lane of each in `finished_in`). Lanes are locked in the order of their
-- ids. Returns the deliveries that were put back.
CREATE OR REPLACE FUNCTION put_back_outcomes(
    outcomes outcome[], finished uuid[], finished_in uuid[], t timestamptz
) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
    ids      uuid[];                 -- of each outcome, position by position
    tokens   bigint[];
    delays   bigint[];
    rests    bigint[];
    excused  integer[];
    not_made integer[];
    put_back uuid[] := '{}';
    lane     record;
    place    tid;
    patience interval := interval '250 milliseconds';  -- for all lanes of the batch that somebody else has locked
BEGIN
    SELECT array_agg(i.delivery_id), array_agg(i.lease_token), array_agg(i.delay_ms), array_agg(i.rest_ms),
           array_agg(i.is_excused::integer), array_agg((i.started_at IS NULL)::integer)
      INTO ids, tokens, delays, rests, excused, not_made
      FROM unnest(outcomes) i;
    FOR lane IN
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
        SELECT x.lane_id AS id, min(x.due_at) AS due_at,
               array_agg(x.delivery_id) FILTER (WHERE x.due_at IS NOT NULL) AS deliveries,
               coalesce(t + make_interval(secs => max(rests[array_position(ids, x.delivery_id)]) / 1000.0),
                        '-infinity') AS rests_until
          FROM (SELECT b.delivery_id, b.lane_id, b.due_at FROM back b
                UNION ALL
                SELECT f.delivery_id, f.lane_id, NULL FROM unnest(finished, finished_in) AS f (delivery_id, lane_id)
                 WHERE rests[array_position(ids, f.delivery_id)] IS NOT NULL) x
         GROUP BY x.lane_id ORDER BY x.lane_id
    LOOP
        put_back := put_back || lane.deliveries;
        place := lock_lane(lane.id, patience);
        IF place IS NULL THEN
            -- No batch waits long for one lane: the note lets a worker update the lane as soon as it is free.
            patience := interval '0';
            INSERT INTO lanes_to_arm (lane_id, moment, is_scheduled, rests_until)
            VALUES (lane.id, coalesce(lane.due_at, 'infinity'), true, lane.rests_until);
            CONTINUE;
        END IF;
        UPDATE lanes l
           SET rests_until = greatest(l.rests_until, lane.rests_until),
               scheduled_at = least(l.scheduled_at, lane.due_at),
               due_at = greatest(least(l.due_at, lane.due_at), l.held_until, lane.rests_until),
               revision = l.revision + 1
         WHERE l.ctid = place
           AND (l.scheduled_at > lane.due_at OR l.rests_until < lane.rests_until);
    END LOOP;
    RETURN put_back;
END $$;
