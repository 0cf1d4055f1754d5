-- Wakes the workers after a commit, over a separate connection: a NOTIFY inside the ingest transaction would make
-- commits queue for one global lock. Before that, it looks again at the lanes that accept() left alone, by one delivery
-- of each. If that delivery still waits while its lane is not due, the claims have missed it, and the lane is armed
-- again. So the race costs no latency, and the second visit only has to help if an api process died in between. If a
-- crash undoes this only time is lost, so it does not wait for the disk.
--
-- It waits for no lane: `locked` has the deliveries whose lanes somebody else has locked at the moment; the caller
-- calls again for them. is_late says that lanes were armed a while ago: workers then start at the first lane.
CREATE OR REPLACE FUNCTION wake(
    armed boolean, is_late boolean, unarmed_deliveries uuid[], OUT notified boolean, OUT locked uuid[]
) LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t         constant timestamptz := clock_timestamp();
    item      record;
    was_armed boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    notified := armed;
    locked := '{}';
    FOR item IN
        SELECT q.lane_id, i.delivery_id
          FROM unnest(unarmed_deliveries) AS i (delivery_id)
         CROSS JOIN LATERAL (SELECT x.lane_id FROM queue x
                              WHERE x.delivery_id = i.delivery_id AND x.lease_token IS NULL
                                AND x.due_at <= t OFFSET 0) q
         -- A lane that is locked may be finishing a visit that missed the delivery.
         WHERE coalesce((SELECT l.due_at > greatest(t, l.held_until) OR l.xmax <> '0'::xid FROM lanes l
                          WHERE l.id = q.lane_id ORDER BY l.revision DESC LIMIT 1), true)
         ORDER BY q.lane_id
    LOOP
        was_armed := arm_lane(item.lane_id, NULL, t, NULL, false, interval '0');
        IF was_armed IS NULL THEN
            locked := locked || item.delivery_id;
        ELSE
            notified := notified OR was_armed;
        END IF;
    END LOOP;
    IF notified THEN
        PERFORM pg_notify(current_schema() || '_wake', CASE WHEN is_late THEN 'late' ELSE '' END);
    END IF;
END $$;
