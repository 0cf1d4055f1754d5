-- Creates the missing partitions of the UTC days first..last, of all partitioned tables; returns how many it made. Many
-- processes may run it at once.
CREATE OR REPLACE FUNCTION ensure_partitions(first date, last date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    made integer := 0;
    part record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(current_schema() || '.partitions'));
    FOR part IN
        SELECT t.parent, d.day::date AS day
          FROM partitioned_tables t
         CROSS JOIN LATERAL generate_series(date_trunc(t.unit, first::timestamp), last::timestamp,
                                            ('1 ' || t.unit)::interval) AS d (day)
    LOOP
        IF ensure_partition(part.parent, part.day) THEN made := made + 1; END IF;
    END LOOP;
    RETURN made;
END $$;
