-- Whether a lane's receiver has failed of late, so that its successes count. The index on such lanes is small, so this
-- costs other lanes little.
CREATE OR REPLACE FUNCTION is_troubled(lane_id uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM lanes l
                    WHERE l.id = is_troubled.lane_id
                      AND (l.circuit_state IS NOT NULL OR l.failing_since IS NOT NULL OR l.window_from IS NOT NULL)
                    ORDER BY l.revision DESC LIMIT 1);
END $$;
