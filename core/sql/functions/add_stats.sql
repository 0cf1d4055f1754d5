-- Adds what a process has counted to the statistics. The caller gives the rows in the order of their keys, so that no
-- two wait for each other, and each key once. Losing sums in a crash of the database is allowed: this need not wait for
-- the disk. An hour that was closed already is noted, to be folded again.
CREATE OR REPLACE FUNCTION add_stats(
    sums stats_sum[], accepted accepted_sum[], causes cause_sum[], slot smallint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    closed timestamptz;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    -- Whoever closes an hour waits for this lock, so that it does not miss these sums.
    SELECT f.closed_until INTO STRICT closed FROM stats_folding f FOR SHARE;
    INSERT INTO stats_late_hours (hour)
    SELECT DISTINCT date_trunc('hour', m.minute)
      FROM (SELECT i.minute FROM unnest(sums) i UNION ALL SELECT i.minute FROM unnest(accepted) i) m
     WHERE m.minute < closed;

    PERFORM add_sums(sums, add_stats.slot);
    INSERT INTO accepted_minute AS a (tenant_id, event_type, minute, slot, events, bytes)
    SELECT i.tenant_id, i.event_type, i.minute, add_stats.slot, i.events, i.bytes
      FROM unnest(accepted) i
        ON CONFLICT ON CONSTRAINT accepted_minute_pkey DO UPDATE
       SET events = a.events + EXCLUDED.events, bytes = a.bytes + EXCLUDED.bytes;
    INSERT INTO stats_causes AS c
           (tenant_id, subscription_id, moment, cause, slot, count, first_at, last_at, delivery_id, status_code)
    SELECT i.tenant_id, i.subscription_id, i.moment, i.cause, add_stats.slot, i.count, i.first_at, i.last_at,
           i.delivery_id, i.status_code
      FROM unnest(causes) i
        ON CONFLICT ON CONSTRAINT stats_causes_pkey DO UPDATE
       SET count = c.count + EXCLUDED.count, first_at = least(c.first_at, EXCLUDED.first_at),
           last_at = greatest(c.last_at, EXCLUDED.last_at),
           delivery_id = CASE WHEN EXCLUDED.last_at >= c.last_at THEN EXCLUDED.delivery_id ELSE c.delivery_id END,
           status_code = CASE WHEN EXCLUDED.last_at >= c.last_at THEN EXCLUDED.status_code ELSE c.status_code END;
END $$;
