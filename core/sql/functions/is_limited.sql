-- Whether a visit of the lane must respect a limit, an order, or the state of its circuit.
CREATE OR REPLACE FUNCTION is_limited(lane lanes) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(lane.is_ordered, false) OR coalesce(lane.has_parked, false) OR lane.max_in_flight IS NOT NULL
        OR lane.rate_interval_us IS NOT NULL OR lane.circuit_state IS NOT NULL
$$;
