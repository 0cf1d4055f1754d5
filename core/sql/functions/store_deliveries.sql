-- Stores deliveries of events that are there, or come in the same transaction, and arms their lanes; answers the lanes
-- it armed: only those need a wake-up. A lane that is armed is read and not locked, which is what lets ingest and
-- claims run beside each other; the price is a race that wake() and the second look of claim() settle.
--
-- A lane that somebody else has locked is not waited for. Nothing is lost by that: wake() tries again after the commit;
-- and unless the lane was drained so lately that its second look comes after this transaction, a row in lanes_to_arm
-- tells the workers, should this process die before.
--
-- is_replay says whether they are made later than their events because somebody asked; replay is the replay of a range
-- that makes them, if one does. Replays lock every lane: nobody calls wake() for them, and their transactions may last
-- longer than the linger.
CREATE OR REPLACE FUNCTION store_deliveries(new_deliveries new_delivery[], is_replay boolean, replay uuid)
RETURNS uuid[] LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t     constant timestamptz := clock_timestamp();
    armed uuid[] := '{}';
    lane  record;
    was_armed boolean;
    -- Whoever replays may wait; what takes events in may not: one lane that somebody holds would stop everybody's.
    patience constant interval := CASE WHEN is_replay THEN interval '5 seconds' ELSE interval '0' END;
BEGIN
    INSERT INTO deliveries (id, event_id, tenant_id, subscription_id, replay_of, is_replay, replay_id, created_at)
    SELECT i.id, i.event_id, i.tenant_id, i.subscription_id, i.replay_of, store_deliveries.is_replay, replay, t
      FROM unnest(new_deliveries) i;

    INSERT INTO queue (delivery_id, event_id, lane_id, due_at)
    SELECT i.id, i.event_id, i.lane_id, greatest(i.due_at, t) FROM unnest(new_deliveries) i;

    -- Of each lane the earliest that is due by now, and the earliest that is due later: that one needs a note in the
    -- lane whatever its state.
    FOR lane IN
        SELECT DISTINCT ON (i.lane_id, i.due_at > t) i.lane_id AS id, i.subscription_id, i.lease_ms, i.due_at,
               coalesce(i.due_at > t, false) AS is_scheduled, l.drained_at
          FROM unnest(new_deliveries) i
          LEFT JOIN LATERAL (SELECT x.due_at > greatest(t, x.held_until) OR x.drained_at IS NOT NULL AS is_unarmed,
                                    x.drained_at
                               FROM lanes x WHERE x.id = i.lane_id ORDER BY x.revision DESC LIMIT 1) l ON true
         WHERE i.due_at > t OR store_deliveries.is_replay OR coalesce(l.is_unarmed, true)
         ORDER BY i.lane_id, i.due_at > t, i.due_at
    LOOP
        was_armed := arm_lane(lane.id, lane.subscription_id, greatest(lane.due_at, clock_timestamp()), lane.lease_ms,
                              lane.is_scheduled, patience);
        IF was_armed THEN
            armed := armed || lane.id;
        ELSIF was_armed IS NULL
              AND (lane.is_scheduled OR is_replay OR NOT coalesce(lane.drained_at > t - lane_recent(), false)) THEN
            INSERT INTO lanes_to_arm (lane_id, subscription_id, moment, lease_ms, is_scheduled)
            VALUES (lane.id, lane.subscription_id, greatest(lane.due_at, t), lane.lease_ms, lane.is_scheduled);
        END IF;
    END LOOP;
    RETURN armed;
END $$;
