-- Stores deliveries of events that exist or are stored in the same transaction, and arms their lanes. Returns the lanes
-- that it armed: only those need a wake-up. A lane that is armed already is read but not locked, so that ingest and
-- claims do not wait for each other. This permits a race, which wake() and the second visit of claim() resolve.
--
-- A lane that somebody else has locked is not waited for. Nothing is lost by that: wake() tries again after the commit.
-- If this process dies before that, the lane's second visit finds the delivery where the lane was drained a moment ago;
-- for any other lane, a row in lanes_to_arm tells the workers.
--
-- is_replay says that somebody asked for these deliveries after their events were accepted; job is the job that makes
-- them, if one does. For replays every lane is locked: nobody calls wake() for them, and their transactions may last
-- longer than the linger.
CREATE OR REPLACE FUNCTION store_deliveries(new_deliveries new_delivery[], is_replay boolean, job uuid)
RETURNS uuid[] LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t     constant timestamptz := clock_timestamp();
    armed uuid[] := '{}';
    lane  record;
    was_armed boolean;
    -- A replay may wait. Ingest may not, because one lane that somebody holds would then stop the ingest of all.
    patience constant interval := CASE WHEN is_replay THEN interval '5 seconds' ELSE interval '0' END;
BEGIN
    INSERT INTO deliveries (id, event_id, tenant_id, subscription_id, replay_of, is_replay, job_id, created_at)
    SELECT i.id, i.event_id, i.tenant_id, i.subscription_id, i.replay_of, store_deliveries.is_replay, job, t
      FROM unnest(new_deliveries) i;

    -- For each lane, the earliest delivery that is due by now, and the earliest that is due later. The later one must
    -- be noted in the lane whatever the lane's state.
    FOR lane IN
        WITH stored AS MATERIALIZED (
            SELECT i.id, i.event_id, i.subscription_id, i.lane_id, i.lease_ms, i.due_at, l.is_unarmed, l.drained_at,
                   l.is_ordered
              FROM unnest(new_deliveries) i
              LEFT JOIN LATERAL (SELECT x.due_at > greatest(t, x.held_until) OR x.drained_at IS NOT NULL AS is_unarmed,
                                        x.drained_at, x.is_ordered
                                   FROM lanes x WHERE x.id = i.lane_id ORDER BY x.revision DESC LIMIT 1) l ON true
        ), queued AS (
            INSERT INTO queue (delivery_id, event_id, lane_id, due_at, ordering_key, sequence)
            SELECT i.id, i.event_id, i.lane_id, greatest(i.due_at, t),
                   CASE WHEN i.is_ordered THEN event_ordering_key(i.event_id) END,
                   CASE WHEN i.is_ordered THEN nextval('queue_places') END
              FROM stored i
        )
        SELECT DISTINCT ON (i.lane_id, i.due_at > t) i.lane_id AS id, i.subscription_id, i.lease_ms, i.due_at,
               coalesce(i.due_at > t, false) AS is_scheduled, i.drained_at
          FROM stored i
         WHERE i.due_at > t OR store_deliveries.is_replay OR coalesce(i.is_unarmed, true)
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
