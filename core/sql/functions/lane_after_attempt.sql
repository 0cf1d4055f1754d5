-- Returns a lane as one attempt leaves it: its circuit, and for how long its receiver has been failing. It is pure: all
-- that it needs is in its arguments. `circuit` has the settings, NULL where it is switched off. Attempts are told in
-- the order in which they ended. An attempt that was begun before the circuit opened moves it no more; while it is half
-- open, only probes do.
CREATE OR REPLACE FUNCTION lane_after_attempt(
    lane lanes, circuit jsonb, has_failed boolean, ended timestamptz, is_probe boolean, t timestamptz
) RETURNS lanes LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    opens    boolean := false;
    cooldown integer;
BEGIN
    IF has_failed THEN
        lane.failing_since := coalesce(lane.failing_since, ended);
        lane.failing_attempts := coalesce(lane.failing_attempts, 0) + 1;
    ELSE
        lane.failing_since := NULL;
        lane.failing_attempts := NULL;
        lane.failing_warned := NULL;
    END IF;

    IF circuit IS NULL OR lane.circuit_state = 'open' THEN
        RETURN lane;
    ELSIF lane.circuit_state = 'half_open' THEN
        IF NOT is_probe THEN
            RETURN lane;
        ELSIF has_failed THEN
            opens := true;
            cooldown := least(lane.cooldown_seconds * 2, (circuit ->> 'cooldown_max_seconds')::integer);
        ELSE
            lane.probe_successes := lane.probe_successes + 1;
            IF lane.probe_successes >= (circuit ->> 'successes_to_close')::integer THEN
                lane := close_circuit(lane);
                lane.rests_until := greatest(lane.rests_until, t);  -- What waited for it is not late.
            END IF;
        END IF;
    ELSE
        IF lane.window_from + make_interval(secs => (circuit ->> 'window_seconds')::integer) <= ended
           OR lane.window_from IS NULL AND has_failed THEN
            lane.window_from := CASE WHEN has_failed THEN ended END;
            lane.window_attempts := CASE WHEN has_failed THEN 0 END;
            lane.window_failures := lane.window_attempts;
        END IF;
        lane.window_attempts := lane.window_attempts + 1;
        lane.window_failures := lane.window_failures + has_failed::integer;
        lane.failures_in_a_row := CASE WHEN has_failed THEN coalesce(lane.failures_in_a_row, 0) + 1 END;
        opens := has_failed
            AND (lane.failures_in_a_row >= (circuit ->> 'failures_in_a_row')::integer
                 OR lane.window_attempts >= (circuit ->> 'samples_min')::integer
                    AND lane.window_failures * 100 >= (circuit ->> 'failure_percent')::integer * lane.window_attempts);
        cooldown := (circuit ->> 'cooldown_seconds')::integer;
    END IF;
    IF opens THEN
        lane.circuit_state := 'open';
        lane.opened_at := coalesce(lane.opened_at, t);
        lane.cooldown_seconds := cooldown;
        lane.open_until := t + make_interval(secs => cooldown);
        lane.window_from := NULL;
    END IF;
    RETURN lane;
END $$;
