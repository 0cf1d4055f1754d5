-- Creates the missing partitions of the UTC days first..last; returns how many it made. Many processes may run it at
-- once. It uses ATTACH, because CREATE … PARTITION OF would lock out ingest.
CREATE OR REPLACE FUNCTION ensure_partitions(first date, last date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    parent  text;
    day     date;
    part    text;
    made    integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(current_schema() || '.partitions'));
    FOREACH parent IN ARRAY ARRAY['events', 'deliveries', 'attempts', 'inline_deliveries'] LOOP
        FOR day IN SELECT generate_series(first, last, interval '1 day')::date LOOP
            part := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
            CONTINUE WHEN to_regclass(format('%I.%I', current_schema(), part)) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING STORAGE)', part, parent);
            IF parent = 'deliveries' THEN
                -- This leaves room on each page for the one HOT update that every delivery gets.
                EXECUTE format('ALTER TABLE %I SET (fillfactor = 85)', part);
            END IF;
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part,
                uuid_floor(day::timestamp AT TIME ZONE 'UTC'),
                uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC'));
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
