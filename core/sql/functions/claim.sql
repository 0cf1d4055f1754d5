-- Leases due deliveries, lane by lane. Lanes are visited in the order in which they became due, which is round robin.
--   lanes_max   lanes that are visited, at most
--   rows_max    the caller's free places; n lanes take at most n of every n + 1 of them, a lone lane half
--   skip        lanes that already hold as many of the caller's places as are free
--   lanes_from  only lanes that became due at this time or later are visited; '-infinity' for a sweep
--   only_lane   the only lane to visit, after a claim of all lanes has failed; otherwise NULL
-- The result has no payloads, because the visited lanes stay locked until its last row is sent. The last row has no
-- delivery; it tells the database's time, and when the next lane is due that was not to be skipped. In a lane with a
-- rate limit, the delivery number n of the lane, from 0, is to be attempted wait_us + n * step_us microseconds later.
-- late_us tells for how long the delivery had been due since its lane last rested; NULL in a lane with limits, where
-- deliveries wait on purpose. is_awaited says that others of its lane wait for the outcome. Those of its ordering key
-- do also where the lane is not ordered at the moment, because it may be again before the outcome comes.
-- If a crash of the database undoes a claim, its deliveries are only made again, so it need not wait for the disk:
-- unless they would then be under way beside their first attempts, where that exceeds a limit or breaks an order.
CREATE OR REPLACE FUNCTION claim(
    lanes_max integer, rows_max integer, skip uuid[], lanes_from timestamptz, only_lane uuid
) RETURNS TABLE (
    delivery_id uuid, event_id uuid, lane_id uuid, subscription_id uuid,
    attempt_number integer, attempts_before integer, releases integer, lease_token bigint, lease_ms integer,
    is_awaited boolean, wait_us bigint, step_us bigint, late_us bigint, looked_at timestamptz, next_due_at timestamptz
) LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    t        constant timestamptz := clock_timestamp();
    token    constant bigint := new_lease_token();
    visits   tid[];
    found    record;
    quantum  integer;
    is_bound boolean := false;       -- a limit or an order rests on what this claim leases
    -- What the last statement needs: of each visited lane, position by position, and of each row, where it is and the
    -- position of its lane.
    subs  uuid[] := '{}';    leases integer[] := '{}';    awaited boolean[] := '{}';  waits   bigint[] := '{}';
    steps bigint[] := '{}';  rests timestamptz[] := '{}'; tids    tid[] := '{}';      lane_of integer[] := '{}';
BEGIN
    visits := ARRAY(
        SELECT l.ctid FROM lanes l
         WHERE l.due_at >= lanes_from AND l.due_at <= t AND l.id <> ALL (skip)
           AND (only_lane IS NULL OR l.id = only_lane)
         ORDER BY l.due_at LIMIT lanes_max FOR UPDATE SKIP LOCKED);
    quantum := greatest(1, rows_max / (cardinality(visits) + 1));

    -- Locked rows do not move, so they are found by their ctid, however many dead versions they have.
    FOR found IN
        SELECT p.*, false AS is_awaited, NULL::bigint AS wait_us, NULL::bigint AS step_us
          FROM visit_plain_lanes(visits, quantum, t) p
         UNION ALL
        SELECT l.id, l.subscription_id, l.lease_ms, NULL, v.tids, NULL, v.is_awaited, v.wait_us, l.rate_interval_us
          FROM lanes l
         CROSS JOIN LATERAL visit_limited_lane(l.ctid, l, needs_sweep(l, t), quantum, token, t) v
         WHERE l.ctid = ANY (visits) AND is_limited(l)
    LOOP
        subs := subs || found.subscription_id;
        tids := tids || found.tids;
        lane_of := lane_of || array_fill(cardinality(subs), ARRAY[coalesce(cardinality(found.tids), 0)]);
        leases := leases || found.lease_ms;
        awaited := awaited || found.is_awaited;
        is_bound := is_bound OR found.tids <> '{}' AND (found.is_awaited OR found.step_us IS NOT NULL);
        waits := waits || found.wait_us;
        steps := steps || found.step_us;
        rests := rests || found.rested;
        IF found.lost IS NOT NULL THEN PERFORM log_lost_leases(found.lost, found.lease_ms); END IF;
    END LOOP;
    IF NOT is_bound THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;
    RETURN QUERY
        UPDATE queue q
           SET lease_token = token, attempt_count = q.attempt_count + 1,
               due_at = t + make_interval(secs => leases[was.lane] / 1000.0)
          FROM (SELECT x.ctid AS tid, x.due_at, r.lane
                  FROM unnest(tids, lane_of) r (tid, lane) JOIN queue x ON x.ctid = r.tid OFFSET 0) was
         WHERE q.ctid = was.tid
        RETURNING q.delivery_id, q.event_id, q.lane_id, subs[was.lane], q.attempt_count, q.attempts_before, q.releases,
                  token, leases[was.lane], awaited[was.lane] OR q.ordering_key IS NOT NULL, waits[was.lane],
                  steps[was.lane], lateness(was.due_at, rests[was.lane], t), NULL::timestamptz, NULL::timestamptz;

    looked_at := t;
    SELECT l.due_at INTO next_due_at FROM lanes l
     WHERE l.due_at >= lanes_from AND l.due_at < 'infinity' AND l.id <> ALL (skip) ORDER BY l.due_at LIMIT 1;
    RETURN NEXT;
END $$;
