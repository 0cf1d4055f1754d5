-- Returns a lane as the attempts of a batch leave it, position by position in the order in which they ended, and tells
-- the operator what has changed. Only move_lanes() calls this; it has the lane locked.
CREATE OR REPLACE FUNCTION lane_after_attempts(
    before lanes, failed boolean[], ended timestamptz[], probes boolean[], t timestamptz
) RETURNS lanes LANGUAGE plpgsql AS $$
DECLARE
    lane    lanes := before;
    circuit constant jsonb := lane_circuit(before);
BEGIN
    IF circuit IS NULL THEN
        lane := close_circuit(lane);
    END IF;
    FOR i IN 1 .. cardinality(failed) LOOP
        lane := lane_after_attempt(lane, circuit, failed[i], ended[i], probes[i], t);
    END LOOP;
    IF lane.window_from + make_interval(secs => (circuit ->> 'window_seconds')::integer) <= t THEN
        lane.window_from := NULL;
    END IF;

    IF lane.circuit_state = 'open' AND before.circuit_state IS DISTINCT FROM 'open' THEN
        DELETE FROM lane_leases x WHERE x.lane_id = lane.id AND x.is_probe;
        PERFORM circuit_event('opened', lane, 'the receiver keeps failing');
    ELSIF lane.circuit_state IS NULL AND before.circuit_state IS NOT NULL THEN
        PERFORM circuit_event('closed', lane, CASE WHEN circuit IS NULL THEN 'it was switched off'
                                                   ELSE 'the receiver answers again' END);
    END IF;
    IF before.failing_warned > 0 AND lane.failing_warned IS NULL AND lane.subscription_id IS NOT NULL THEN
        PERFORM operational_event('postrider.subscription.recovered', s.tenant_id, s.id,
                                  jsonb_build_object('reason', 'an attempt has succeeded',
                                                     'failing_since', before.failing_since,
                                                     'failing_attempts', before.failing_attempts))
           FROM subscriptions s WHERE s.id = lane.subscription_id;
    END IF;
    RETURN lane;
END $$;
