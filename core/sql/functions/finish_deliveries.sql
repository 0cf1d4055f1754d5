-- The part of record_outcomes() that stores the end of deliveries in their records. `ids` and `statuses` are those of
-- the whole batch, position by position. The bounds `low` and `high` let Postgres skip the partitions that cannot hold
-- these deliveries, before it opens any.
CREATE OR REPLACE FUNCTION finish_deliveries(
    finished uuid[], ids uuid[], statuses delivery_status[], t timestamptz
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    low  constant uuid := (SELECT f FROM unnest(finished) f ORDER BY f LIMIT 1);
    high constant uuid := (SELECT f FROM unnest(finished) f ORDER BY f DESC LIMIT 1);
BEGIN
    UPDATE deliveries d SET status = statuses[array_position(ids, d.id)], finished_at = t
     WHERE d.id = ANY (finished) AND d.id >= low AND d.id <= high;
END $$;
