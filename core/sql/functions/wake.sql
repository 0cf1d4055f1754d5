-- Sends the workers a wake-up, on a connection of its own and after the commit: a NOTIFY inside the ingest
-- transaction would make commits queue for one global lock. Before that it looks once more at the lanes that accept()
-- left alone, by one delivery of each: one that still waits while its lane is not due has been passed by, and its lane
-- is armed again. So the race costs no latency, and the second look only has to catch an api that died in between.
-- Losing either in a crash loses nothing but time, hence no wait for the disk. Answers whether it notified.
CREATE OR REPLACE FUNCTION wake(armed boolean, unarmed_deliveries uuid[]) RETURNS boolean LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t      constant timestamptz := clock_timestamp();
    item   record;
    needed boolean := armed;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR item IN
        SELECT q.lane_id
          FROM unnest(unarmed_deliveries) AS i (delivery_id)
         CROSS JOIN LATERAL (SELECT x.lane_id FROM queue x
                              WHERE x.delivery_id = i.delivery_id AND x.lease_token IS NULL AND x.due_at <= t OFFSET 0) q
         -- One that is locked may be passed by at this very moment: arm_lane() waits for it, and looks again.
         WHERE (SELECT l.due_at > greatest(t, l.held_until) OR l.xmax <> '0'::xid FROM lanes l
                 WHERE l.id = q.lane_id ORDER BY l.revision DESC LIMIT 1)
         ORDER BY q.lane_id
    LOOP
        needed := arm_lane(item.lane_id, NULL, t) OR needed;
    END LOOP;
    IF needed THEN
        PERFORM pg_notify(current_schema() || '_wake', '');
    END IF;
    RETURN needed;
END $$;
