-- If a lane was drained more recently than this, its second visit, a linger after that, comes only after a transaction
-- that begins now has ended. It is the linger less the longest time of an ingest statement.
CREATE OR REPLACE FUNCTION lane_recent() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT interval '3 seconds'
$$;
