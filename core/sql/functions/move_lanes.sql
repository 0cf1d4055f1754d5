-- The part of record_outcomes() that updates lanes, in the order of their ids: a lane must be due for the earliest row
-- that was put back into it, rest as long as its receiver asked, go on where others wait for an outcome, and keep
-- count of failures (a receiver that asks to give a delivery up is well). A lane whose receiver is well and which has
-- no limits is not touched by successes.
--   ids                          the delivery of each outcome, position by position
--   applied, applied_in, dues    the deliveries that were changed, with the lane of each, and when it is due again
CREATE OR REPLACE FUNCTION move_lanes(
    outcomes outcome[], ids uuid[], applied uuid[], applied_in uuid[], dues timestamptz[], t timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    change   record;
    lane     lanes;
    place    tid;
    probes   bigint[];
    patience interval := interval '250 milliseconds';  -- for all lanes of the batch that somebody else has locked
BEGIN
    FOR change IN
        SELECT a.lane_id AS id, min(a.due_at) AS due_at, bool_or(o.is_awaited) AS is_awaited,
               array_agg(o.lease_token) AS leases,
               coalesce(t + make_interval(secs => max(o.rest_ms) / 1000.0), '-infinity') AS rests_until,
               array_agg(o.error_kind IS NOT NULL ORDER BY e.at) FILTER (WHERE e.counts) AS failed,
               array_agg(e.at ORDER BY e.at) FILTER (WHERE e.counts) AS ended,
               array_agg(o.lease_token ORDER BY e.at) FILTER (WHERE e.counts) AS tokens
          FROM unnest(applied, applied_in, dues) AS a (delivery_id, lane_id, due_at)
         CROSS JOIN LATERAL (SELECT (outcomes[array_position(ids, a.delivery_id)]).*) o
         CROSS JOIN LATERAL (SELECT o.started_at + make_interval(secs => o.duration_ms / 1000.0) AS at,
                                    o.started_at IS NOT NULL AND NOT o.is_excused
                                    AND o.error_kind IS DISTINCT FROM 'aborted' AS counts) e
         GROUP BY a.lane_id ORDER BY a.lane_id
    LOOP
        -- They may have been leased before the lane had a limit.
        change.is_awaited := change.is_awaited
            OR EXISTS (SELECT FROM lane_leases x WHERE x.lane_id = change.id AND x.lease_token = ANY (change.leases));
        CONTINUE WHEN change.due_at IS NULL AND NOT change.is_awaited AND change.rests_until = '-infinity'
                      AND NOT coalesce(true = ANY (change.failed), false)
                      AND NOT is_troubled(change.id);
        probes := CASE WHEN change.is_awaited THEN return_leases(change.id, change.leases) ELSE '{}' END;
        place := lock_lane(change.id, patience);
        IF place IS NULL THEN
            -- No batch waits long for one lane: the note lets a worker update the lane as soon as it is free.
            patience := interval '0';
            INSERT INTO lanes_to_arm (lane_id, moment, is_scheduled, rests_until)
            VALUES (change.id, CASE WHEN change.is_awaited THEN t ELSE coalesce(change.due_at, 'infinity') END,
                    NOT change.is_awaited, change.rests_until);
            CONTINUE;
        END IF;
        SELECT l.* INTO lane FROM lanes l WHERE l.ctid = place;
        IF change.failed IS NOT NULL THEN
            lane := lane_after_attempts(lane, change.failed, change.ended,
                                        ARRAY(SELECT i = ANY (probes) FROM unnest(change.tokens) i), t);
        END IF;
        lane.rests_until := greatest(lane.rests_until, change.rests_until);
        lane.scheduled_at := least(lane.scheduled_at, change.due_at);
        lane.due_at := least(lane.due_at, change.due_at);
        IF change.is_awaited THEN
            lane.full_until := NULL;
            lane.due_at := least(lane.due_at, t);
        END IF;
        PERFORM store_lane(place, lane);
    END LOOP;
END $$;
