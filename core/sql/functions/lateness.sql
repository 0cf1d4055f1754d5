-- For how many microseconds a delivery has been due at the time t while its lane did not rest; NULL where rests_until
-- is.
CREATE OR REPLACE FUNCTION lateness(due_at timestamptz, rests_until timestamptz, t timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN rests_until IS NOT NULL
                THEN greatest(0, extract(epoch FROM t - greatest(due_at, rests_until)) * 1000000)::bigint END
$$;
