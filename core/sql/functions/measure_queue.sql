-- Counts what the gauges show and stores it in queue_size, which has one row, and the backlog in the row of its minute.
-- No count goes beyond counted_max, and each is read along an index, lane by lane: `busy` are the lanes in which
-- anything waits. One process calls this for all.
CREATE OR REPLACE FUNCTION measure_queue(counted_max integer) RETURNS void LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    t       constant timestamptz := clock_timestamp();
    -- Longer than any lease: what is in flight is due again within it.
    leased  constant timestamptz := t + interval '10 minutes';
    busy    uuid[];
    held    uuid[];                  -- those of them that are held
    free    uuid[];
    size    queue_size;
BEGIN
    busy := ARRAY(
        WITH RECURSIVE b (id) AS (
            (SELECT q.lane_id FROM queue q ORDER BY q.lane_id LIMIT 1)
            UNION ALL
            SELECT (SELECT q.lane_id FROM queue q WHERE q.lane_id > b.id ORDER BY q.lane_id LIMIT 1)
              FROM b WHERE b.id IS NOT NULL)
        SELECT b.id FROM b WHERE b.id IS NOT NULL LIMIT counted_max);
    SELECT coalesce(array_agg(x.id) FILTER (WHERE x.is_held), '{}'),
           coalesce(array_agg(x.id) FILTER (WHERE NOT x.is_held), '{}')
      INTO held, free
      FROM (SELECT u.id, coalesce((SELECT l.held_until > t FROM lanes l WHERE l.id = u.id
                                    ORDER BY l.revision DESC LIMIT 1), false) AS is_held
              FROM unnest(busy) u (id)) x;

    SELECT count(*) INTO size.due
      FROM (SELECT FROM unnest(free) u (id)
             CROSS JOIN LATERAL (SELECT FROM queue q WHERE q.lane_id = u.id AND q.due_at <= t LIMIT counted_max) q
             LIMIT counted_max) x;
    SELECT count(*) INTO size.held
      FROM (SELECT FROM unnest(held) u (id)
             CROSS JOIN LATERAL (SELECT FROM queue q WHERE q.lane_id = u.id AND q.due_at <= t LIMIT counted_max) q
             LIMIT counted_max) x;
    SELECT count(*) INTO size.scheduled
      FROM (SELECT FROM unnest(busy) u (id)
             CROSS JOIN LATERAL (SELECT FROM queue q WHERE q.lane_id = u.id AND q.due_at > t
                                    AND (q.lease_token IS NULL OR q.due_at > leased) LIMIT counted_max) q
             LIMIT counted_max) x;
    SELECT count(*) INTO size.in_flight
      FROM (SELECT FROM unnest(busy) u (id)
             CROSS JOIN LATERAL (SELECT FROM queue q WHERE q.lane_id = u.id AND q.due_at > t AND q.due_at <= leased
                                    AND q.lease_token IS NOT NULL LIMIT counted_max) q
             LIMIT counted_max) x;

    SELECT count(*) INTO size.dead_letters
      FROM (SELECT FROM dead_letters d WHERE d.resolved_at IS NULL LIMIT counted_max) x;
    SELECT count(*) FILTER (WHERE l.circuit_state = 'open'), count(*) FILTER (WHERE l.circuit_state = 'half_open')
      INTO size.circuits_open, size.circuits_half_open
      FROM lanes l WHERE l.circuit_state IS NOT NULL AND l.subscription_id IS NOT NULL;
    size.subscriptions := (SELECT jsonb_object_agg(s.state, s.counts) FROM count_subscriptions(counted_max) s);
    size.partitions_until := (SELECT (min(p.last) + 1)::timestamp AT TIME ZONE 'UTC'
                                FROM (SELECT max(last_day) AS last FROM partitions GROUP BY parent) p);

    UPDATE queue_size
       SET due = size.due, scheduled = size.scheduled, held = size.held, in_flight = size.in_flight,
           dead_letters = size.dead_letters, circuits_open = size.circuits_open,
           circuits_half_open = size.circuits_half_open, subscriptions = coalesce(size.subscriptions, '{}'),
           partitions_until = size.partitions_until, measured_at = t;
    INSERT INTO backlog_minute AS b (minute, due, scheduled, held, in_flight)
    VALUES (date_trunc('minute', t), size.due, size.scheduled, size.held, size.in_flight)
        ON CONFLICT (minute) DO UPDATE
       SET due = greatest(b.due, excluded.due), scheduled = greatest(b.scheduled, excluded.scheduled),
           held = greatest(b.held, excluded.held), in_flight = greatest(b.in_flight, excluded.in_flight);
END $$;
