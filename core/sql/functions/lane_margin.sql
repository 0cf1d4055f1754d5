-- How far before the last row taken a visit starts to read a lane's rows. An ingest that took longer than this may
-- commit rows before that place; a sweep, which reads from the beginning, finds them.
CREATE OR REPLACE FUNCTION lane_margin() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '1 second'
$$;
