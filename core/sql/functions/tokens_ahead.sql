-- How far ahead of the time of their attempts a visit takes deliveries of a lane with a rate limit; the worker waits
-- for each one's time. So the lane keeps its rate although visits come irregularly, and a worker's places are not
-- filled with deliveries that wait.
CREATE OR REPLACE FUNCTION tokens_ahead(rate_interval_us bigint) RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT least(interval '250 milliseconds', make_interval(secs => rate_interval_us * 32 / 1e6))
$$;
