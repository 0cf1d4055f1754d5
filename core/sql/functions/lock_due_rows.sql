-- Locks the due rows of a lane, the earliest first and at most a quantum, skipping rows that somebody else has locked.
-- Among them may be rows whose leases have expired; those are logged. Unless it is a sweep, it starts at the lane's
-- floor, behind the dead versions of rows that were taken before. Only visit_limited_lane() calls this; the lanes
-- without limits are locked by visit_plain_lanes(), all together.
CREATE OR REPLACE FUNCTION lock_due_rows(
    lane lanes, is_sweep boolean, quantum integer, t timestamptz,
    OUT taken bigint, OUT last_due timestamptz, OUT tids tid[]
) LANGUAGE plpgsql AS $$
DECLARE
    lost uuid[];
BEGIN
    SELECT count(*), max(r.due_at), array_agg(r.tid), array_agg(r.delivery_id) FILTER (WHERE r.lease_token IS NOT NULL)
      INTO taken, last_due, tids, lost
      FROM (SELECT q.ctid AS tid, q.due_at, q.delivery_id, q.lease_token
              FROM queue q
             WHERE q.lane_id = lane.id
               AND q.due_at >= CASE WHEN is_sweep THEN '-infinity' ELSE lane.floor_at END
               AND q.due_at <= t
             ORDER BY q.due_at LIMIT quantum
               FOR UPDATE SKIP LOCKED) r;
    IF lost IS NOT NULL THEN PERFORM log_lost_leases(lost, lane.lease_ms); END IF;
END $$;
