-- The hot statements, each one round trip for a whole batch: accept (events in), wake (tell the workers),
-- claim (lease what is due), record_outcomes (write them down). ARCHITECTURE.md tells how they fit together.
--
-- Three rules hold in all of them:
--   * Every statement has a shape with one possible plan. The statistics of a queue table swing between empty and
--     full, and a join planned for one of them is a scan of everything in the other. So: scans and joins that could
--     flip are off, sets are passed as arrays, and rows are found by index probes in a LATERAL.
--   * Waiting is ordered: accept and record_outcomes lock lanes in id order and may wait; claim waits for nobody (SKIP LOCKED).
--     So there is no deadlock.
--   * Time is the database's: clock_timestamp(), read once.

-- How long after a lane was drained the second, final look comes. It is longer than an ingest statement may last
-- (5 s, set by the api), so an ingest that saw the lane armed, before that first visit, and left it alone, has committed or failed by then.
CREATE FUNCTION lane_linger() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT interval '8 seconds' $$;

-- Makes a lane due at a moment, or at the end of its hold, unless it is armed already: due by then, and not visited
-- since. (A lane that was visited and found empty may be on its way to going idle, even while it is due.) Answers
-- whether it was changed. Locks the lane: to be called in id order. Makes the lane where there is none.
CREATE FUNCTION arm_lane(lane_id uuid, subscription_id uuid, moment timestamptz) RETURNS boolean LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    lane record;
BEGIN
    LOOP
        SELECT l.ctid AS tid, l.due_at, l.drained_at, greatest(moment, l.hold_until) AS due_by INTO lane
          FROM lanes l WHERE l.id = arm_lane.lane_id ORDER BY l.revision DESC LIMIT 1 FOR UPDATE;
        EXIT WHEN FOUND;
        PERFORM pg_advisory_xact_lock(hashtextextended(arm_lane.lane_id::text, 0));
        INSERT INTO lanes (id, subscription_id, due_at, lease_ms)
        SELECT arm_lane.lane_id, s.id, moment, 2 * s.timeout_ms + 5000
          FROM subscriptions s
         WHERE s.id = coalesce(arm_lane.subscription_id, arm_lane.lane_id)
           AND NOT EXISTS (SELECT FROM lanes l WHERE l.id = arm_lane.lane_id);
        IF FOUND OR NOT EXISTS (SELECT FROM lanes l WHERE l.id = arm_lane.lane_id) THEN
            RETURN FOUND;
        END IF;
    END LOOP;
    IF lane.due_at <= lane.due_by AND lane.drained_at IS NULL THEN
        RETURN false;
    END IF;
    UPDATE lanes SET due_at = least(lane.due_at, lane.due_by), drained_at = NULL, revision = revision + 1
     WHERE ctid = lane.tid;
    RETURN true;
END $$;

-- Stores events and the deliveries they owe, all or nothing, and arms the lanes that are not armed already. Answers the
-- lanes it armed: only those owe a wake-up. A lane that is armed is read and not locked, which is what lets ingest and
-- claims run beside each other; the price is a race that wake() and the second look of claim() settle.
CREATE FUNCTION accept(
    event_ids uuid[], tenant_ids text[], event_types text[], posted_to uuid[], content_types text[], payloads bytea[],
    delivery_ids uuid[], delivery_event_ids uuid[], subscription_ids uuid[], lane_ids uuid[]
) RETURNS uuid[] LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t     constant timestamptz := clock_timestamp();
    armed uuid[] := '{}';
    lane  record;
BEGIN
    INSERT INTO events (id, tenant_id, event_type, subscription_id, content_type, payload, created_at)
    SELECT i.*, t FROM unnest(event_ids, tenant_ids, event_types, posted_to, content_types, payloads) AS i;

    IF cardinality(delivery_ids) = 0 THEN
        RETURN '{}';
    END IF;

    INSERT INTO deliveries (id, event_id, subscription_id, created_at)
    SELECT i.*, t FROM unnest(delivery_ids, delivery_event_ids, subscription_ids) AS i;

    INSERT INTO queue (delivery_id, event_id, lane_id, due_at)
    SELECT i.*, t FROM unnest(delivery_ids, delivery_event_ids, lane_ids) AS i;

    FOR lane IN
        SELECT DISTINCT ON (i.lane_id) i.lane_id AS id, i.subscription_id
          FROM unnest(lane_ids, subscription_ids) AS i (lane_id, subscription_id)
         WHERE coalesce((SELECT l.due_at > greatest(t, l.hold_until) OR l.drained_at IS NOT NULL FROM lanes l
                          WHERE l.id = i.lane_id ORDER BY l.revision DESC LIMIT 1), true)
         ORDER BY i.lane_id
    LOOP
        IF arm_lane(lane.id, lane.subscription_id, t) THEN
            armed := armed || lane.id;
        END IF;
    END LOOP;
    RETURN armed;
END $$;

-- Sends the workers a wake-up, on a connection of its own and after the commit: a NOTIFY inside the ingest
-- transaction would make commits queue for one global lock. Before that it looks once more at the lanes that accept()
-- left alone, by one delivery of each: one that still waits while its lane is not due has been passed by, and its lane
-- is armed again. So the race costs no latency, and the second look only has to catch an api that died in between.
-- Losing either in a crash loses nothing but time, hence no wait for the disk. Answers whether it notified.
CREATE FUNCTION wake(armed boolean, left_deliveries uuid[]) RETURNS boolean LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t     constant timestamptz := clock_timestamp();
    item  record;
    owed  boolean := armed;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR item IN
        SELECT q.lane_id
          FROM unnest(left_deliveries) AS i (delivery_id)
         CROSS JOIN LATERAL (SELECT x.lane_id FROM queue x
                              WHERE x.delivery_id = i.delivery_id AND x.lease_token IS NULL AND x.due_at <= t OFFSET 0) q
         -- One that is locked may be passed by at this very moment: arm_lane() waits for it, and looks again.
         WHERE (SELECT l.due_at > greatest(t, l.hold_until) OR l.xmax <> '0'::xid FROM lanes l
                 WHERE l.id = q.lane_id ORDER BY l.revision DESC LIMIT 1)
         ORDER BY q.lane_id
    LOOP
        owed := arm_lane(item.lane_id, NULL, t) OR owed;
    END LOOP;
    IF owed THEN
        PERFORM pg_notify(current_schema() || '_wake', '');
    END IF;
    RETURN owed;
END $$;

-- Leases due deliveries, lane by lane in the order in which the lanes became due, which is round robin.
--   lanes_max   lanes visited at most
--   rows_max    the caller's free places; n lanes take at most n of every n + 1 of them, a lone lane half
--   skip        lanes that already hold as many of the caller's places as are free
--   lanes_from  where the caller's look along the lanes begins; '-infinity' for a sweep
-- A lease that was lost with its worker is logged as an attempt of which nobody knows the end.
CREATE FUNCTION claim(lanes_max integer, rows_max integer, skip uuid[], lanes_from timestamptz)
RETURNS TABLE (
    delivery_id uuid, event_id uuid, lane_id uuid, subscription_id uuid,
    attempt_number smallint, attempts_before smallint, lease_token bigint, lease_ms integer,
    event_type text, content_type text, payload bytea, event_created_at timestamptz
) LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    t        constant timestamptz := clock_timestamp();
    token    constant bigint := nextval('lease_tokens');
    margin   constant interval := interval '1 second';   -- an ingest that took longer may commit behind the floor;
    resweep  constant interval := interval '10 seconds'; -- then this look from the beginning finds it
    visits   tid[];
    lane     record;
    found    record;
    quantum  integer;
    sweep    boolean;
    lanes_   uuid[] := '{}';         -- what the last statement needs of each visited lane, position by position
    subs     uuid[] := '{}';
    leases   integer[] := '{}';
    tids     tid[] := '{}';
    events_  uuid[] := '{}';
    low      uuid;
    high     uuid;
BEGIN
    -- A claim that a crash of the database undoes is only delivered again.
    PERFORM set_config('synchronous_commit', 'off', true);

    visits := ARRAY(
        SELECT l.ctid FROM lanes l
         WHERE l.due_at >= lanes_from AND l.due_at <= t AND l.id <> ALL (skip)
         ORDER BY l.due_at LIMIT lanes_max
           FOR UPDATE SKIP LOCKED);
    IF cardinality(visits) = 0 THEN
        RETURN;
    END IF;
    quantum := greatest(1, rows_max / (cardinality(visits) + 1));

    -- Locked rows stay where they are, so their place finds them, however many dead versions they have.
    FOR lane IN SELECT l.ctid AS tid, l.* FROM lanes l WHERE l.ctid = ANY (visits) LOOP
        lanes_ := lanes_ || lane.id;
        subs := subs || lane.subscription_id;
        leases := leases || lane.lease_ms;
        sweep := lane.swept_at < t - resweep OR lane.drained_at <= t - lane_linger();
        SELECT count(*) AS n, max(r.due_at) AS last, array_agg(r.tid) AS tids, array_agg(r.event_id) AS events,
               array_agg(r.delivery_id) FILTER (WHERE r.lease_token IS NOT NULL) AS lost
          INTO found
          FROM (SELECT q.ctid AS tid, q.due_at, q.event_id, q.delivery_id, q.lease_token
                  FROM queue q
                 WHERE q.lane_id = lane.id
                   AND q.due_at >= CASE WHEN sweep THEN '-infinity' ELSE lane.floor_at END
                   AND q.due_at <= t
                 ORDER BY q.due_at LIMIT quantum
                   FOR UPDATE SKIP LOCKED) r;
        tids := tids || found.tids;
        events_ := events_ || found.events;

        IF found.lost IS NOT NULL THEN
            BEGIN
                INSERT INTO attempts (delivery_id, number, started_at, error_kind, error)
                SELECT q.delivery_id, q.attempt_count, q.due_at - make_interval(secs => lane.lease_ms / 1000.0),
                       'lease_lost', 'the worker that made this attempt never reported its outcome'
                  FROM queue q WHERE q.delivery_id = ANY (found.lost)
                    ON CONFLICT DO NOTHING;
            EXCEPTION WHEN check_violation THEN
                NULL;  -- The partition of its day is gone. That must not stop everybody's claims.
            END;
        END IF;

        -- When this lane is next worth looking at. Never later than its next delivery is due; too early costs a look.
        IF found.n = quantum THEN
            lane.due_at := t;              -- it may have more: back to the end of the line
            lane.floor_at := least(found.last, t - margin);
            lane.drained_at := NULL;
        ELSE
            IF lane.scheduled_at <= t OR (found.n = 0 AND lane.drained_at <= t - lane_linger()) THEN
                lane.scheduled_at := coalesce(
                    (SELECT q.due_at FROM queue q WHERE q.lane_id = lane.id
                        AND q.due_at > CASE WHEN found.n = 0 THEN '-infinity' ELSE t END
                      ORDER BY q.due_at LIMIT 1),
                    'infinity');
            END IF;
            IF lane.scheduled_at <= t THEN
                lane.due_at := t + margin;         -- somebody holds a row that is due: look again soon
            ELSIF found.n = 0 AND lane.drained_at <= t - lane_linger() THEN
                lane.due_at := lane.scheduled_at;  -- the second empty look: the lane goes idle
            ELSE
                lane.drained_at := CASE WHEN found.n > 0 THEN t ELSE coalesce(lane.drained_at, t) END;
                lane.due_at := least(lane.scheduled_at, lane.drained_at + lane_linger());
            END IF;
            lane.floor_at := t - margin;
        END IF;
        IF found.n > 0 THEN
            lane.due_at := least(lane.due_at, t + make_interval(secs => lane.lease_ms / 1000.0));
        END IF;
        UPDATE lanes l
           SET due_at = greatest(lane.due_at, lane.hold_until), scheduled_at = lane.scheduled_at,
               floor_at = lane.floor_at, drained_at = lane.drained_at,
               swept_at = CASE WHEN sweep THEN t ELSE l.swept_at END, revision = l.revision + 1
         WHERE l.ctid = lane.tid;
    END LOOP;
    IF cardinality(tids) = 0 THEN
        RETURN;
    END IF;

    -- The bounds let the partitions that cannot hold these events be left out before any is opened.
    low := (SELECT e FROM unnest(events_) e ORDER BY e LIMIT 1);
    high := (SELECT e FROM unnest(events_) e ORDER BY e DESC LIMIT 1);
    RETURN QUERY
        WITH leased AS (
            UPDATE queue q
               SET lease_token = token, attempt_count = q.attempt_count + 1,
                   due_at = t + make_interval(secs => leases[array_position(lanes_, q.lane_id)] / 1000.0)
             WHERE q.ctid = ANY (tids)
            RETURNING q.delivery_id, q.event_id, q.lane_id, q.attempt_count, q.attempts_before,
                      array_position(lanes_, q.lane_id) AS visit
        )
        SELECT u.delivery_id, u.event_id, u.lane_id, subs[u.visit],
               u.attempt_count, u.attempts_before, token, leases[u.visit],
               e.event_type, e.content_type, e.payload, e.created_at
          FROM leased u
          LEFT JOIN LATERAL (SELECT x.event_type, x.content_type, x.payload, x.created_at
                               FROM events x WHERE x.id = u.event_id AND x.id >= low AND x.id <= high OFFSET 0) e ON true;
END $$;

-- Writes outcomes down, in one durable transaction, and answers the deliveries it applied to: a lease that was lost
-- meanwhile changes nothing. One delivery may stand in a batch only once. Per outcome:
--   statuses     what becomes of the delivery; 'pending' puts it back, due after delay_ms
--   excused      true: the attempt does not count against the retry policy
--   started_ats  NULL: no attempt was made, so none is logged, and the attempt number is given back
--   hold_ms      not NULL: the whole lane rests that long (Retry-After)
-- A success touches no lane.
CREATE FUNCTION record_outcomes(
    ids uuid[], tokens bigint[], statuses delivery_status[], numbers smallint[], delay_ms bigint[], excused boolean[],
    started_ats timestamptz[], durations_ms integer[], status_codes smallint[], error_kinds text[], errors text[],
    headers jsonb[], bodies bytea[], truncated boolean[], hold_ms bigint[], subscription_ids uuid[]
) RETURNS uuid[] LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t        constant timestamptz := clock_timestamp();
    finished uuid[];
    finished_in uuid[];              -- the lane of each
    put_back uuid[] := '{}';
    applied  uuid[];
    low      uuid;
    high     uuid;
    lane     record;
    place    tid;
BEGIN
    WITH gone AS (
        DELETE FROM queue q
         WHERE q.ctid = ANY (ARRAY(
               SELECT x.tid FROM unnest(ids, tokens, statuses) AS i (id, token, status)
                CROSS JOIN LATERAL (SELECT q2.ctid AS tid FROM queue q2
                                     WHERE q2.delivery_id = i.id AND q2.lease_token = i.token
                                       AND i.status <> 'pending' OFFSET 0) x))
           AND q.lease_token = tokens[array_position(ids, q.delivery_id)]
        RETURNING q.delivery_id, q.lane_id
    )
    SELECT coalesce(array_agg(delivery_id), '{}'), coalesce(array_agg(lane_id), '{}') INTO finished, finished_in FROM gone;

    IF 'pending' = ANY (statuses) OR cardinality(array_remove(hold_ms, NULL)) > 0 THEN
        FOR lane IN
            WITH back AS (
                UPDATE queue q
                   SET lease_token = NULL,
                       due_at = t + make_interval(secs => delay_ms[array_position(ids, q.delivery_id)] / 1000.0),
                       attempt_count = q.attempt_count
                           - (started_ats[array_position(ids, q.delivery_id)] IS NULL)::integer,
                       attempts_before = q.attempts_before
                           + (excused[array_position(ids, q.delivery_id)])::integer
                 WHERE q.ctid = ANY (ARRAY(
                       SELECT x.tid FROM unnest(ids, tokens, statuses) AS i (id, token, status)
                        CROSS JOIN LATERAL (SELECT q2.ctid AS tid FROM queue q2
                                             WHERE q2.delivery_id = i.id AND q2.lease_token = i.token
                                               AND i.status = 'pending' OFFSET 0) x))
                   AND q.lease_token = tokens[array_position(ids, q.delivery_id)]
                RETURNING q.delivery_id, q.lane_id, q.due_at
            )
            SELECT lane_id AS id, min(due_at) AS due_at,
                   array_agg(delivery_id) FILTER (WHERE due_at IS NOT NULL) AS deliveries,
                   coalesce(t + make_interval(secs => max(hold_ms[array_position(ids, delivery_id)]) / 1000.0),
                            '-infinity') AS hold_until
              FROM (SELECT delivery_id, lane_id, due_at FROM back
                    UNION ALL
                    SELECT f.delivery_id, f.lane_id, NULL FROM unnest(finished, finished_in) AS f (delivery_id, lane_id)
                     WHERE hold_ms[array_position(ids, f.delivery_id)] IS NOT NULL) x
             GROUP BY lane_id ORDER BY lane_id
        LOOP
            put_back := put_back || lane.deliveries;
            place := (SELECT l.ctid FROM lanes l WHERE l.id = lane.id ORDER BY l.revision DESC LIMIT 1 FOR UPDATE);
            UPDATE lanes l
               SET hold_until = greatest(l.hold_until, lane.hold_until),
                   scheduled_at = least(l.scheduled_at, lane.due_at),
                   due_at = greatest(least(l.due_at, lane.due_at), l.hold_until, lane.hold_until),
                   revision = l.revision + 1
             WHERE l.ctid = place
               AND (l.scheduled_at > lane.due_at OR l.hold_until < lane.hold_until);
        END LOOP;
    END IF;
    applied := finished || put_back;

    INSERT INTO attempts (delivery_id, number, started_at, duration_ms, status_code, error_kind, error,
                          response_headers, response_body, response_truncated)
    SELECT i.id, i.number, i.started_at, i.duration_ms, i.status_code, i.error_kind, i.error,
           i.headers, i.body, i.truncated
      FROM unnest(ids, numbers, started_ats, durations_ms, status_codes, error_kinds, errors, headers, bodies, truncated)
        AS i (id, number, started_at, duration_ms, status_code, error_kind, error, headers, body, truncated)
     WHERE i.started_at IS NOT NULL
       AND (cardinality(applied) = cardinality(ids) OR i.id = ANY (applied))
        ON CONFLICT DO NOTHING;

    IF cardinality(finished) > 0 THEN
        low := (SELECT f FROM unnest(finished) f ORDER BY f LIMIT 1);
        high := (SELECT f FROM unnest(finished) f ORDER BY f DESC LIMIT 1);
        UPDATE deliveries d SET status = statuses[array_position(ids, d.id)], finished_at = t
         WHERE d.id = ANY (finished) AND d.id >= low AND d.id <= high;
    END IF;

    IF 'dead_letter' = ANY (statuses) THEN
        INSERT INTO dead_letters (delivery_id, subscription_id, created_at)
        SELECT i.id, i.subscription_id, t FROM unnest(ids, statuses, subscription_ids) AS i (id, status, subscription_id)
         WHERE i.status = 'dead_letter' AND i.id = ANY (finished)
            ON CONFLICT (delivery_id) DO UPDATE SET created_at = EXCLUDED.created_at, resolved_at = NULL;
    END IF;
    RETURN applied;
END $$;
