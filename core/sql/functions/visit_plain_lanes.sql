-- Visits those of the locked lanes that are not limited, all in one statement: locks the rows that claim() is about to
-- lease, at most a quantum of each lane, and writes down how far each lane has come. For each visited lane it returns
-- `tids`, the rows (NULL where there are none); `rested`, the end of the lane's last rest; and `lost`, deliveries
-- among the rows whose leases have expired. Unless it is a sweep, a visit starts at the lane's floor, behind the dead
-- versions of rows that were taken before. Only claim() calls this, with its settings.
CREATE OR REPLACE FUNCTION visit_plain_lanes(places tid[], quantum integer, t timestamptz) RETURNS TABLE (
    lane_id uuid, subscription_id uuid, lease_ms integer, rested timestamptz, tids tid[], lost uuid[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        WITH visited AS MATERIALIZED (
            SELECT l.ctid AS place, l.id, l.floor_at, l AS lane, needs_sweep(l, t) AS is_sweep
              FROM lanes l WHERE l.ctid = ANY (places) AND NOT is_limited(l)
        ), moved AS MATERIALIZED (
            SELECT v.place, v.is_sweep, x.tids, x.lost,
                   lane_after_visit(v.lane, x.rows, x.last_due, x.rows = quantum, t) AS lane
              FROM visited v
             CROSS JOIN LATERAL (
                   SELECT count(*) AS rows, max(r.due_at) AS last_due, array_agg(r.tid) AS tids,
                          array_agg(r.delivery_id) FILTER (WHERE r.lease_token IS NOT NULL) AS lost
                     FROM (SELECT q.ctid AS tid, q.due_at, q.delivery_id, q.lease_token
                             FROM queue q
                            WHERE q.lane_id = v.id
                              AND q.due_at >= CASE WHEN v.is_sweep THEN '-infinity' ELSE v.floor_at END
                              AND q.due_at <= t
                            ORDER BY q.due_at LIMIT quantum
                              FOR UPDATE SKIP LOCKED) r) x
        ), stored AS (
            UPDATE lanes l
               SET due_at = (m.lane).due_at, scheduled_at = (m.lane).scheduled_at, floor_at = (m.lane).floor_at,
                   drained_at = (m.lane).drained_at, swept_at = CASE WHEN m.is_sweep THEN t ELSE l.swept_at END,
                   revision = l.revision + 1
              FROM moved m WHERE l.ctid = m.place
        )
        SELECT (m.lane).id, (m.lane).subscription_id, (m.lane).lease_ms, (m.lane).rests_until, m.tids, m.lost
          FROM moved m;
END $$;
