-- Returns a lane with its circuit closed, and nothing counted. Probes that are out hold it no longer; if it has as many
-- attempts in flight as it may, its next visit finds that.
CREATE OR REPLACE FUNCTION close_circuit(lane lanes) RETURNS lanes LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    lane.circuit_state := NULL;
    lane.opened_at := NULL;
    lane.open_until := NULL;
    lane.full_until := NULL;
    lane.cooldown_seconds := NULL;
    lane.failures_in_a_row := NULL;
    lane.probe_successes := NULL;
    lane.window_from := NULL;
    lane.window_attempts := NULL;
    lane.window_failures := NULL;
    RETURN lane;
END $$;
