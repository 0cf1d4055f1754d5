-- Makes those of the lanes due in which an ordering key was freed (see note_freed_key()). Returns whether there were
-- any. It waits for no lane: a locked one is noted.
CREATE OR REPLACE FUNCTION arm_freed_lanes(lanes uuid[]) RETURNS boolean LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t    constant timestamptz := clock_timestamp();
    id   uuid;
    freed boolean := false;
BEGIN
    FOR id IN
        SELECT DISTINCT i FROM unnest(arm_freed_lanes.lanes) i
         WHERE EXISTS (SELECT FROM freed_keys f WHERE f.lane_id = i) ORDER BY i
    LOOP
        freed := true;
        IF arm_lane(id, NULL, t, NULL, false, interval '0') IS NULL THEN
            INSERT INTO lanes_to_arm (lane_id, moment, is_scheduled) VALUES (id, t, false);
        END IF;
    END LOOP;
    RETURN freed;
END $$;
