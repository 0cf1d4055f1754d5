-- How lately a lane must have been drained for its second look, a linger after that, to come when a transaction that
-- begins now has ended: the linger, less what an ingest statement may last.
CREATE OR REPLACE FUNCTION lane_recent() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '3 seconds'
$$;
