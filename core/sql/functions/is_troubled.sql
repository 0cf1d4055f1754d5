-- Whether a lane's receiver has failed of late, so that its successes count. It reads the newest version of the lane
-- only, however many dead ones there are.
CREATE OR REPLACE FUNCTION is_troubled(lane_id uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((SELECT l.circuit_state IS NOT NULL OR l.failing_since IS NOT NULL OR l.window_from IS NOT NULL
                       FROM lanes l WHERE l.id = is_troubled.lane_id ORDER BY l.revision DESC LIMIT 1), false);
END $$;
