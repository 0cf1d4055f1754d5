-- Whether a visit of the lane at the time t looks at all due rows, and not only at those behind the lane's floor: from
-- time to time, and on the second visit of a lane that was drained.
CREATE OR REPLACE FUNCTION needs_sweep(lane lanes, t timestamptz) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(lane.swept_at < t - lane_resweep() OR lane.drained_at <= t - lane_linger(), false)
$$;
