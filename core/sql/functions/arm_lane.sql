-- Makes a lane due at `moment`, or at the end of its hold, unless it is armed already: due by then, and not visited
-- since it was armed. (A lane that was visited and found empty may be going idle, even while it is due.) A moment that
-- has passed, perhaps while this waited for the lane, means now: workers look for lanes that have just become due. With
-- `scheduled`, the moment lies in the future; then it is also noted in scheduled_at, because a visit before it reads
-- only rows that are due, and looks for later ones only where scheduled_at says that there are some.
--
-- Returns whether the lane was changed; NULL if somebody else has it locked for longer than `patience`, and then it is
-- unchanged. Callers arm lanes in the order of their ids. A lane that does not exist is created: for a subscription, or
-- for inline deliveries if lease_ms is given.
CREATE OR REPLACE FUNCTION arm_lane(
    lane_id uuid, subscription_id uuid, moment timestamptz, lease_ms integer, scheduled boolean, patience interval
) RETURNS boolean LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    place tid;
    lane  record;
    later constant timestamptz := CASE WHEN scheduled THEN moment ELSE 'infinity' END;
BEGIN
    LOOP
        place := lock_lane(arm_lane.lane_id, patience);
        EXIT WHEN place IS NOT NULL;
        IF EXISTS (SELECT FROM lanes l WHERE l.id = arm_lane.lane_id)
           OR NOT pg_try_advisory_xact_lock(hashtextextended(arm_lane.lane_id::text, 0)) THEN
            RETURN NULL;  -- Somebody has it locked, or is making it.
        END IF;
        INSERT INTO lanes (id, subscription_id, due_at, scheduled_at, lease_ms)
        SELECT arm_lane.lane_id, n.subscription_id, moment, later, n.lease_ms
          FROM (SELECT s.id, 2 * s.timeout_ms + 5000 FROM subscriptions s
                 WHERE s.id = coalesce(arm_lane.subscription_id, arm_lane.lane_id)
                UNION ALL
                SELECT NULL, arm_lane.lease_ms WHERE arm_lane.lease_ms IS NOT NULL) n (subscription_id, lease_ms)
         WHERE NOT EXISTS (SELECT FROM lanes l WHERE l.id = arm_lane.lane_id);
        IF FOUND OR NOT EXISTS (SELECT FROM lanes l WHERE l.id = arm_lane.lane_id) THEN
            RETURN FOUND;
        END IF;
    END LOOP;
    SELECT l.due_at, l.drained_at, l.scheduled_at, greatest(moment, clock_timestamp(), l.held_until) AS due_by INTO lane
      FROM lanes l WHERE l.ctid = place;
    IF lane.due_at <= lane.due_by AND (scheduled OR lane.drained_at IS NULL) AND lane.scheduled_at <= later THEN
        RETURN false;
    END IF;
    UPDATE lanes
       SET due_at = least(lane.due_at, lane.due_by), scheduled_at = least(lane.scheduled_at, later),
           -- A delivery for later says nothing of what may have been left alone: the second look still has to come.
           drained_at = CASE WHEN scheduled THEN lane.drained_at END,
           revision = revision + 1
     WHERE ctid = place;
    RETURN true;
END $$;
