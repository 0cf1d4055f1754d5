-- The step that is due at `t` for a subscription whose attempts have done nothing but fail since failing_since: 50 or
-- 75, a warning at that share (in percent) of the time that its settings allow, or 100, which disables it. NULL where
-- none is due. `warned` is the last warning, NULL where there was none. A receiver that was tried only a few times is
-- not given up.
CREATE OR REPLACE FUNCTION failing_step(
    failing_since timestamptz, failing_attempts integer, warned integer, disable_after_days integer, t timestamptz
) RETURNS integer LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    percent constant numeric := 100 * extract(epoch FROM t - failing_since) / (disable_after_days * 86400);
BEGIN
    RETURN CASE
               WHEN percent >= 100 AND failing_attempts >= 20 THEN 100
               WHEN percent >= 75 AND coalesce(warned, 0) < 75 THEN 75
               WHEN percent >= 50 AND coalesce(warned, 0) < 50 THEN 50
           END;
END $$;
