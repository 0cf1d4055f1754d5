-- The settings of a lane's circuit as JSON; NULL where it is switched off. Lanes of inline deliveries have the
-- defaults, which are those of the column.
CREATE OR REPLACE FUNCTION lane_circuit(lane lanes) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF lane.subscription_id IS NOT NULL THEN
        RETURN (SELECT s.circuit FROM subscriptions s WHERE s.id = lane.subscription_id);
    END IF;
    RETURN jsonb '{"failures_in_a_row": 10, "failure_percent": 80, "samples_min": 20, "window_seconds": 60,
                   "cooldown_seconds": 30, "cooldown_max_seconds": 900, "probes": 1, "successes_to_close": 2}';
END $$;
