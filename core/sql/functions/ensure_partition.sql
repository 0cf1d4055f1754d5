-- Creates the partition of a table that contains this UTC day, unless there is one; returns whether it did. The caller
-- holds the lock of ensure_partitions(). It uses ATTACH, because CREATE … PARTITION OF would lock out ingest.
CREATE OR REPLACE FUNCTION ensure_partition(parent text, day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    shape partitioned_tables;
    first timestamptz;
    after timestamptz;
    part  text;
BEGIN
    SELECT * INTO STRICT shape FROM partitioned_tables t WHERE t.parent = ensure_partition.parent;
    first := date_trunc(shape.unit, day::timestamp) AT TIME ZONE 'UTC';
    after := (date_trunc(shape.unit, day::timestamp) + ('1 ' || shape.unit)::interval) AT TIME ZONE 'UTC';
    part := format('%s_%s', parent, to_char(first AT TIME ZONE 'UTC', 'YYYYMMDD'));
    IF to_regclass(format('%I.%I', current_schema(), part)) IS NOT NULL THEN RETURN false; END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING STORAGE)', part, parent);
    IF shape.fillfactor < 100 THEN
        EXECUTE format('ALTER TABLE %I SET (fillfactor = %s)', part, shape.fillfactor);
    END IF;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part,
        CASE WHEN shape.is_by_id THEN uuid_floor(first)::text ELSE first::text END,
        CASE WHEN shape.is_by_id THEN uuid_floor(after)::text ELSE after::text END);
    RETURN true;
END $$;
