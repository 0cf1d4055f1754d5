-- By how much an attempt may be late, so that those after it do not come too soon after it: the worker reads the
-- payload and connects in between. In a lane with a rate limit, the last attempts of a burst wait for up to this long.
CREATE OR REPLACE FUNCTION token_jitter() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '20 milliseconds'
$$;
