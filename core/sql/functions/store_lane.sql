-- Writes a lane back that the caller has locked and changed; it is due no earlier than its hold ends.
CREATE OR REPLACE FUNCTION store_lane(place tid, lane lanes) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE lanes l
       SET due_at = greatest(lane.due_at, lane_hold(lane)), rests_until = lane.rests_until,
           scheduled_at = lane.scheduled_at, floor_at = lane.floor_at, drained_at = lane.drained_at,
           swept_at = lane.swept_at, next_token_at = lane.next_token_at, token_held_until = lane.token_held_until,
           has_parked = lane.has_parked, full_until = lane.full_until, open_until = lane.open_until,
           circuit_state = lane.circuit_state, opened_at = lane.opened_at, cooldown_seconds = lane.cooldown_seconds,
           failures_in_a_row = lane.failures_in_a_row, window_from = lane.window_from,
           window_attempts = lane.window_attempts, window_failures = lane.window_failures,
           probe_successes = lane.probe_successes, failing_since = lane.failing_since,
           failing_attempts = lane.failing_attempts, failing_warned = lane.failing_warned,
           revision = l.revision + 1
     WHERE l.ctid = place;
END $$;
