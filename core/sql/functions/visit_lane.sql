-- Visits a lane: locks the rows that claim() is about to lease, and writes down how far the lane has come. `is_awaited`
-- says that others of the lane wait for the outcomes of what is leased; for wait_us see lane_room(). `rested` is the
-- end of the lane's last rest; NULL in a lane with limits. Only claim() calls this, with its settings.
CREATE OR REPLACE FUNCTION visit_lane(
    place tid, lane lanes, is_sweep boolean, quantum integer, token bigint, t timestamptz,
    OUT tids tid[], OUT wait_us bigint, OUT is_awaited boolean, OUT rested timestamptz
) LANGUAGE plpgsql AS $$
DECLARE
    found record;
BEGIN
    IF lane.is_ordered OR lane.has_parked OR lane.max_in_flight IS NOT NULL OR lane.rate_interval_us IS NOT NULL
       OR lane.circuit_state IS NOT NULL THEN
        SELECT * INTO tids, wait_us, is_awaited
          FROM visit_limited_lane(place, lane, is_sweep, quantum, token, t);
        RETURN;
    END IF;
    SELECT * INTO found FROM lock_due_rows(lane, is_sweep, quantum, t);
    tids := found.tids;
    is_awaited := false;
    rested := lane.rests_until;
    lane := lane_after_visit(lane, found.taken, found.last_due, found.taken = quantum, t);
    UPDATE lanes l
       SET due_at = lane.due_at, scheduled_at = lane.scheduled_at, floor_at = lane.floor_at,
           drained_at = lane.drained_at, swept_at = CASE WHEN is_sweep THEN t ELSE l.swept_at END,
           revision = l.revision + 1
     WHERE l.ctid = place;
END $$;
