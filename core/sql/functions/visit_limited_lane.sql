-- Visits a limited lane: locks the rows that claim() is about to lease, within the lane's limits, and writes down how
-- far the lane has come. `is_awaited` says that others of the lane wait for the outcomes of what is leased; for wait_us
-- see lane_room(). Only claim() calls this, with its settings.
CREATE OR REPLACE FUNCTION visit_limited_lane(
    place tid, before lanes, is_sweep boolean, quantum integer, token bigint, t timestamptz,
    OUT tids tid[], OUT wait_us bigint, OUT is_awaited boolean
) LANGUAGE plpgsql AS $$
DECLARE
    lane    lanes;
    taken   bigint := 0;
    room    record;
    found   record;
    expiry  constant timestamptz := t + make_interval(secs => before.lease_ms / 1000.0);
    started timestamptz;
BEGIN
    SELECT * INTO room FROM lane_room(before, quantum, t);
    lane := room.lane;
    wait_us := room.wait_us;
    is_awaited := coalesce(lane.is_ordered, false) OR lane.max_in_flight IS NOT NULL OR room.probes IS NOT NULL;
    IF room.room = 0 THEN
        lane.due_at := t + interval '1 millisecond';
        PERFORM store_lane(place, lane);
        RETURN;
    END IF;
    IF lane.is_ordered THEN
        SELECT * INTO found FROM lock_heads(lane, is_sweep, room.room, t);
        lane.has_parked := nullif(coalesce(lane.has_parked, false) OR found.has_parked, false);
    ELSE
        IF lane.has_parked THEN lane.has_parked := nullif(unpark(lane.id, t), false); END IF;
        SELECT x.*, x.taken = room.room AS is_full, coalesce(lane.has_parked, false) AS is_waiting,
               NULL::timestamptz AS left_from, NULL::timestamptz AS busy_until
          INTO found
          FROM lock_due_rows(lane, is_sweep, room.room, t) x;
    END IF;
    taken := found.taken;
    tids := found.tids;

    lane := lane_after_visit(lane, taken, found.last_due, found.is_full, t);
    lane.floor_at := least(lane.floor_at, found.left_from);
    lane.due_at := least(lane.due_at, found.busy_until);
    IF found.is_waiting THEN lane.due_at := least(lane.due_at, t + interval '20 milliseconds'); END IF;
    IF taken > 0 AND (lane.max_in_flight IS NOT NULL OR room.probes IS NOT NULL) THEN
        INSERT INTO lane_leases (lane_id, expires_at, lease_token, count, is_probe)
        VALUES (lane.id, expiry, token, taken, room.probes IS NOT NULL);
        IF taken = room.leases_left THEN lane.full_until := least(room.first_expiry, expiry); END IF;
    END IF;
    IF taken > 0 AND lane.rate_interval_us IS NOT NULL THEN
        lane.next_token_at := greatest(lane.next_token_at, t + token_jitter())
                              + make_interval(secs => lane.rate_interval_us * taken / 1e6);
        started := lane.next_token_at - make_interval(secs => lane.rate_interval_us * (lane.rate_burst - 1) / 1e6)
                   - tokens_ahead(lane.rate_interval_us) / 2;
        lane.token_held_until := CASE WHEN started > t THEN started END;
    END IF;
    IF is_sweep THEN lane.swept_at := t; END IF;
    PERFORM store_lane(place, lane);
END $$;
