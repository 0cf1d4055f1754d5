-- How often a visit reads a lane's rows from the very beginning, which is called a sweep.
CREATE OR REPLACE FUNCTION lane_resweep() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '10 seconds'
$$;
