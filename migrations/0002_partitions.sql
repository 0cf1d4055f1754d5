-- Daily partitions of the three big tables.

-- The smallest UUID whose first 48 bits say that millisecond: a bound that every UUIDv7 of the moment is above.
CREATE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT rpad(lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;

-- Creates the partitions of the UTC days first..last that do not exist yet; answers how many it made. Safe to run
-- from many processes at once. ATTACH instead of CREATE … PARTITION OF, because the latter would lock out ingest.
CREATE FUNCTION ensure_partitions(first date, last date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    parent  text;
    day     date;
    part    text;
    made    integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(current_schema() || '.partitions'));
    FOREACH parent IN ARRAY ARRAY['events', 'deliveries', 'attempts'] LOOP
        FOR day IN SELECT generate_series(first, last, interval '1 day')::date LOOP
            part := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
            CONTINUE WHEN to_regclass(format('%I.%I', current_schema(), part)) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING STORAGE)', part, parent);
            IF parent = 'deliveries' THEN
                -- Room on each page for the one HOT update that every delivery gets.
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

-- Every partition with its day, oldest first.
CREATE VIEW partitions AS
    SELECT p.relname::text AS parent, c.relname::text AS name,
           to_date(right(c.relname, 8), 'YYYYMMDD') AS day
      FROM pg_inherits i
      JOIN pg_class p ON p.oid = i.inhparent
      JOIN pg_class c ON c.oid = i.inhrelid
      JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = current_schema()
     WHERE p.relname IN ('events', 'deliveries', 'attempts') AND c.relkind = 'r'
     ORDER BY day, parent;

-- Yesterday too: a clock that is a little behind must not lose an event at midnight.
SELECT ensure_partitions((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + 7);
