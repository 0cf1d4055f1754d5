-- Returns a lane as a visit must leave it: due when the next visit may find something, and never later than its next
-- delivery. (A visit too early only costs a look.) The visit has leased `taken` rows; the last that it looked at was
-- due at last_due. `is_full` says that it stopped there, because it had taken as many as it could. Only claim() calls
-- this, with its settings.
CREATE OR REPLACE FUNCTION lane_after_visit(
    lane lanes, taken bigint, last_due timestamptz, is_full boolean, t timestamptz
) RETURNS lanes LANGUAGE plpgsql AS $$
DECLARE
    is_second_empty_look constant boolean := coalesce(taken = 0 AND lane.drained_at <= t - lane_linger(), false);
BEGIN
    IF is_full THEN
        lane.due_at := t;                  -- it may have more: back to the end of the line
        lane.floor_at := least(last_due, t - lane_margin());
        lane.drained_at := NULL;
    ELSE
        IF lane.scheduled_at <= t OR is_second_empty_look THEN
            lane.scheduled_at := coalesce(
                (SELECT q.due_at FROM queue q WHERE q.lane_id = lane.id
                    AND q.due_at > CASE WHEN taken = 0 THEN '-infinity' ELSE t END
                  ORDER BY q.due_at LIMIT 1),
                'infinity');
        END IF;
        IF lane.scheduled_at <= t THEN
            lane.due_at := t + lane_margin();  -- somebody holds a row that is due: look again soon
        ELSIF is_second_empty_look THEN
            lane.due_at := lane.scheduled_at;  -- the lane goes idle
        ELSE
            lane.drained_at := CASE WHEN taken > 0 THEN t ELSE coalesce(lane.drained_at, t) END;
            lane.due_at := least(lane.scheduled_at, lane.drained_at + lane_linger());
        END IF;
        lane.floor_at := t - lane_margin();
    END IF;
    IF taken > 0 THEN
        lane.due_at := least(lane.due_at, t + make_interval(secs => lane.lease_ms / 1000.0));
    END IF;
    lane.due_at := greatest(lane.due_at, lane.held_until);
    RETURN lane;
END $$;
