-- How often a look along a lane begins at the very beginning.
CREATE OR REPLACE FUNCTION lane_resweep() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '10 seconds'
$$;
