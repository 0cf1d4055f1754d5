-- How long after a lane was drained the second, final look comes. It is longer than an ingest statement may last
-- (INGEST_STATEMENT_TIMEOUT in core/src/database.rs), so an ingest that saw the lane armed, before that first visit,
-- and left it alone, has committed or failed by then.
CREATE OR REPLACE FUNCTION lane_linger() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '8 seconds'
$$;
