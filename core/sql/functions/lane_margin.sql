-- How far a look along a lane begins behind what earlier looks have taken. An ingest that took longer than this may
-- commit behind the floor; then a look from the beginning finds it.
CREATE OR REPLACE FUNCTION lane_margin() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '1 second'
$$;
