-- Stores deliveries of events that are there, or come in the same transaction, and arms their lanes; answers the lanes
-- it armed: only those need a wake-up. A lane that is armed is read and not locked, which is what lets ingest and claims
-- run beside each other; the price is a race that wake() and the second look of claim() settle.
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
BEGIN
    INSERT INTO deliveries (id, event_id, tenant_id, subscription_id, replay_of, is_replay, replay_id, created_at)
    SELECT i.id, i.event_id, i.tenant_id, i.subscription_id, i.replay_of, store_deliveries.is_replay, replay, t
      FROM unnest(new_deliveries) i;

    INSERT INTO queue (delivery_id, event_id, lane_id, due_at)
    SELECT i.id, i.event_id, i.lane_id, greatest(i.due_at, t) FROM unnest(new_deliveries) i;

    -- Of each lane the earliest that is due by now, and the earliest that is due later: that one needs a note in the
    -- lane whatever its state.
    FOR lane IN
        SELECT DISTINCT ON (i.lane_id, i.due_at > t) i.lane_id AS id, i.subscription_id, i.lease_ms, i.due_at
          FROM unnest(new_deliveries) i
         WHERE i.due_at > t OR store_deliveries.is_replay
            OR coalesce((SELECT l.due_at > greatest(t, l.held_until) OR l.drained_at IS NOT NULL FROM lanes l
                          WHERE l.id = i.lane_id ORDER BY l.revision DESC LIMIT 1), true)
         ORDER BY i.lane_id, i.due_at > t, i.due_at
    LOOP
        IF arm_lane(lane.id, lane.subscription_id, greatest(lane.due_at, t), lane.lease_ms,
                    coalesce(lane.due_at > t, false)) THEN
            armed := armed || lane.id;
        END IF;
    END LOOP;
    RETURN armed;
END $$;
