-- How long after a lane was drained the second, final visit comes. An ingest that saw the lane armed before the first
-- visit, and so left it alone, must have committed or failed by then. So this is longer than an ingest statement may
-- take (INGEST_STATEMENT_TIMEOUT in core/src/database.rs).
CREATE OR REPLACE FUNCTION lane_linger() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '8 seconds'
$$;
