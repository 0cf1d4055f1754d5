-- The hot statements that change with fan-out: accept() also takes idempotency keys and deliveries for later, and owes
-- through store_deliveries(), which replays use as well; arm_lane() also makes lanes without a subscription; claim() also answers
-- when an event expires. The rules at the head of 0003_lanes.sql hold here as well.

DROP FUNCTION accept(uuid[], text[], text[], uuid[], text[], bytea[], uuid[], uuid[], uuid[], uuid[]);
DROP FUNCTION arm_lane(uuid, uuid, timestamptz);
DROP FUNCTION claim(integer, integer, uuid[], timestamptz);

-- Makes a lane due at a moment, or at the end of its hold, unless it is armed already: due by then, and not visited
-- since. (A lane that was visited and found empty may be on its way to going idle, even while it is due.) A moment that
-- was to come when it was chosen is scheduled: it is noted in scheduled_at as well, because a visit in between reads only
-- what is due, and what else is scheduled is found only by a visit that has such a note. Answers whether the lane
-- was changed. Locks the lane: to be called in id order. Makes the lane where there is none: of a subscription, or of
-- inline deliveries where lease_ms is given.
CREATE FUNCTION arm_lane(
    lane_id uuid, subscription_id uuid, moment timestamptz, lease_ms integer DEFAULT NULL, scheduled boolean DEFAULT false
) RETURNS boolean LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    lane  record;
    later constant timestamptz := CASE WHEN scheduled THEN moment ELSE 'infinity' END;
BEGIN
    LOOP
        SELECT l.ctid AS tid, l.due_at, l.drained_at, l.scheduled_at, greatest(moment, l.hold_until) AS due_by INTO lane
          FROM lanes l WHERE l.id = arm_lane.lane_id ORDER BY l.revision DESC LIMIT 1 FOR UPDATE;
        EXIT WHEN FOUND;
        PERFORM pg_advisory_xact_lock(hashtextextended(arm_lane.lane_id::text, 0));
        INSERT INTO lanes (id, subscription_id, due_at, scheduled_at, lease_ms)
        SELECT arm_lane.lane_id, n.subscription_id, moment, later, n.lease_ms
          FROM (SELECT s.id, 2 * s.timeout_ms + 5000 FROM subscriptions s
                 WHERE s.id = coalesce(arm_lane.subscription_id, arm_lane.lane_id)
                UNION ALL
                SELECT NULL, arm_lane.lease_ms WHERE arm_lane.lease_ms IS NOT NULL) n (subscription_id, lease_ms)
         WHERE NOT EXISTS (SELECT FROM lanes l WHERE l.id = arm_lane.lane_id);
        IF FOUND OR NOT EXISTS (SELECT FROM lanes l WHERE l.id = arm_lane.lane_id) THEN
            RETURN FOUND;
        END IF;
    END LOOP;
    IF lane.due_at <= lane.due_by AND lane.drained_at IS NULL AND lane.scheduled_at <= later THEN
        RETURN false;
    END IF;
    UPDATE lanes
       SET due_at = least(lane.due_at, lane.due_by), scheduled_at = least(lane.scheduled_at, later), drained_at = NULL,
           revision = revision + 1
     WHERE ctid = lane.tid;
    RETURN true;
END $$;

-- Stores deliveries of events that are there, or come in the same transaction, and arms their lanes; answers the lanes
-- it armed: only those owe a wake-up. A lane that is armed is read and not locked, which is what lets ingest and claims
-- run beside each other; the price is a race that wake() and the second look of claim() settle. Per delivery:
--   subscription_ids  NULL for an inline delivery
--   lease_ms          not NULL for an inline delivery: how long a lease lasts in its lane
--   due_ats           NULL means now
--   replays_of        the delivery that it replays, if any
-- is_replay says whether they are made later than their events because somebody asked; replay is the replay of a range
-- that makes them, if one does. Replays lock every lane: nobody calls wake() for them, and their transactions may last
-- longer than the linger.
CREATE FUNCTION store_deliveries(
    ids uuid[], event_ids uuid[], tenant_ids text[], subscription_ids uuid[], lane_ids uuid[], lease_ms integer[],
    due_ats timestamptz[], replays_of uuid[], is_replay boolean, replay uuid
) RETURNS uuid[] LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t     constant timestamptz := clock_timestamp();
    armed uuid[] := '{}';
    lane  record;
BEGIN
    INSERT INTO deliveries (id, event_id, tenant_id, subscription_id, replay_of, is_replay, replay_id, created_at)
    SELECT i.*, store_deliveries.is_replay, replay, t FROM unnest(ids, event_ids, tenant_ids, subscription_ids, replays_of) AS i;

    INSERT INTO queue (delivery_id, event_id, lane_id, due_at)
    SELECT i.id, i.event_id, i.lane_id, greatest(i.due_at, t)
      FROM unnest(ids, event_ids, lane_ids, due_ats) AS i (id, event_id, lane_id, due_at);

    -- Of each lane the earliest that is due by now, and the earliest that is due later: that one needs a note in the
    -- lane whatever its state.
    FOR lane IN
        SELECT DISTINCT ON (i.lane_id, i.due_at > t) i.lane_id AS id, i.subscription_id, i.lease_ms, i.due_at
          FROM unnest(lane_ids, subscription_ids, lease_ms, due_ats) AS i (lane_id, subscription_id, lease_ms, due_at)
         WHERE i.due_at > t OR store_deliveries.is_replay
            OR coalesce((SELECT l.due_at > greatest(t, l.hold_until) OR l.drained_at IS NOT NULL FROM lanes l
                          WHERE l.id = i.lane_id ORDER BY l.revision DESC LIMIT 1), true)
         ORDER BY i.lane_id, i.due_at > t, i.due_at
    LOOP
        IF arm_lane(lane.id, lane.subscription_id, greatest(lane.due_at, t), lane.lease_ms, coalesce(lane.due_at > t, false)) THEN
            armed := armed || lane.id;
        END IF;
    END LOOP;
    RETURN armed;
END $$;

-- Stores events and the deliveries they owe. An event whose idempotency key is known already is not stored, nor what it
-- owes; of it, `known` has the event that the key stands for, `known_fingerprints` what was asked then, and
-- `known_answers` what was answered. They have as many places as there are events, NULL where an event is new. Two that
-- come with one key at once wait for each other; keys are locked in order, and before lanes. With `whole`, a key that
-- stands for something else undoes everything (SQLSTATE PR409).
CREATE FUNCTION accept(
    event_ids uuid[], tenant_ids text[], event_types text[], posted_to uuid[], content_types text[], payloads bytea[],
    metadata jsonb[], external_ids text[], ordering_keys text[], deliver_ats timestamptz[], expires_ats timestamptz[],
    keys text[], fingerprints bytea[], answers bytea[], key_ttl_ms bigint, whole boolean,
    delivery_ids uuid[], delivery_event_ids uuid[], delivery_tenant_ids text[], subscription_ids uuid[],
    lane_ids uuid[], lease_ms integer[], due_ats timestamptz[],
    OUT armed uuid[], OUT known uuid[], OUT known_fingerprints bytea[], OUT known_answers bytea[]
) LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_variable
DECLARE
    t     constant timestamptz := clock_timestamp();
    won   uuid[];                   -- events whose keys are theirs
    again uuid[] := '{}';           -- events that are not stored, because their keys stand for others
    is_inline constant boolean := cardinality(array_remove(lease_ms, NULL)) > 0;
BEGIN
    armed := '{}';
    IF cardinality(array_remove(keys, NULL)) > 0 THEN
        WITH winners AS (
            INSERT INTO idempotency_keys AS k (tenant_id, key, fingerprint, event_id, answer, expires_at)
            SELECT DISTINCT ON (i.tenant_id, i.key) i.tenant_id, i.key, i.fingerprint, i.event_id, i.answer,
                   t + make_interval(secs => key_ttl_ms / 1000.0)
              FROM unnest(tenant_ids, keys, fingerprints, event_ids, answers)
                AS i (tenant_id, key, fingerprint, event_id, answer)
             WHERE i.key IS NOT NULL
             ORDER BY i.tenant_id, i.key
                ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE
               SET fingerprint = EXCLUDED.fingerprint, event_id = EXCLUDED.event_id, answer = EXCLUDED.answer,
                   expires_at = EXCLUDED.expires_at
             WHERE k.expires_at <= t
            RETURNING k.event_id
        )
        SELECT coalesce(array_agg(winners.event_id), '{}') INTO won FROM winners;

        SELECT array_agg(k.event_id ORDER BY i.n), array_agg(k.fingerprint ORDER BY i.n),
               array_agg(k.answer ORDER BY i.n), coalesce(array_agg(i.event_id) FILTER (WHERE k.lost), '{}')
          INTO known, known_fingerprints, known_answers, again
          FROM unnest(tenant_ids, keys, event_ids) WITH ORDINALITY AS i (tenant_id, key, event_id, n)
          LEFT JOIN LATERAL (SELECT x.event_id, x.fingerprint, x.answer, true AS lost FROM idempotency_keys x
                              WHERE x.tenant_id = i.tenant_id AND x.key = i.key AND i.event_id <> ALL (won)
                             OFFSET 0) k ON true;
        IF whole AND EXISTS (SELECT FROM unnest(fingerprints, known_fingerprints) AS i (asked, known)
                              WHERE i.known <> i.asked) THEN
            RAISE EXCEPTION 'a key stands for something else' USING ERRCODE = 'PR409';
        END IF;
    END IF;

    INSERT INTO events (id, tenant_id, event_type, subscription_id, content_type, payload, metadata, external_id,
                        ordering_key, deliver_at, expires_at, created_at, is_inline)
    SELECT i.*, t, is_inline FROM unnest(event_ids, tenant_ids, event_types, posted_to, content_types, payloads, metadata,
                              external_ids, ordering_keys, deliver_ats, expires_ats) AS i (id)
     WHERE again = '{}' OR i.id <> ALL (again);

    IF again <> '{}' THEN
        SELECT coalesce(array_agg(i.id), '{}'), array_agg(i.event_id), array_agg(i.tenant_id),
               array_agg(i.subscription_id), array_agg(i.lane_id), array_agg(i.lease_ms), array_agg(i.due_at)
          INTO delivery_ids, delivery_event_ids, delivery_tenant_ids, subscription_ids, lane_ids, lease_ms, due_ats
          FROM unnest(delivery_ids, delivery_event_ids, delivery_tenant_ids, subscription_ids, lane_ids, lease_ms, due_ats)
            AS i (id, event_id, tenant_id, subscription_id, lane_id, lease_ms, due_at)
         WHERE i.event_id <> ALL (again);
    END IF;
    IF cardinality(delivery_ids) > 0 THEN
        armed := store_deliveries(delivery_ids, delivery_event_ids, delivery_tenant_ids, subscription_ids, lane_ids, lease_ms,
                     due_ats, array_fill(NULL::uuid, ARRAY[cardinality(delivery_ids)]), false, NULL);
    END IF;
END $$;

-- Stores an event with the one inline delivery that it owes; answers as accept() does.
CREATE FUNCTION accept_inline(
    event_id uuid, tenant_id text, event_type text, content_type text, payload bytea, metadata jsonb,
    deliver_at timestamptz, expires_at timestamptz, key text, fingerprint bytea, answer bytea, key_ttl_ms bigint,
    delivery_id uuid, lane_id uuid, target_url text, retry_policy jsonb, timeout_ms integer, lease_ms integer,
    secret bytea, headers bytea,
    OUT armed uuid[], OUT known uuid[], OUT known_fingerprints bytea[], OUT known_answers bytea[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    SELECT a.* INTO armed, known, known_fingerprints, known_answers
      FROM accept(ARRAY[event_id], ARRAY[tenant_id], ARRAY[event_type], ARRAY[NULL::uuid], ARRAY[content_type],
                  ARRAY[payload], ARRAY[metadata], ARRAY[NULL::text], ARRAY[NULL::text], ARRAY[deliver_at],
                  ARRAY[expires_at], ARRAY[key], ARRAY[fingerprint], ARRAY[answer], key_ttl_ms, false,
                  ARRAY[delivery_id], ARRAY[event_id], ARRAY[tenant_id], ARRAY[NULL::uuid], ARRAY[lane_id],
                  ARRAY[lease_ms], ARRAY[deliver_at]) a;
    IF known_fingerprints[1] IS NULL THEN
        INSERT INTO inline_deliveries (delivery_id, lane_id, target_url, retry_policy, timeout_ms, secret, headers)
        VALUES (delivery_id, lane_id, target_url, retry_policy, timeout_ms, secret, headers);
    END IF;
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
    event_type text, content_type text, payload bytea, event_created_at timestamptz, event_expires_in_ms bigint
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
               e.event_type, e.content_type, e.payload, e.created_at,
               (extract(epoch FROM e.expires_at - t) * 1000)::bigint
          FROM leased u
          LEFT JOIN LATERAL (SELECT x.event_type, x.content_type, x.payload, x.created_at, x.expires_at
                               FROM events x WHERE x.id = u.event_id AND x.id >= low AND x.id <= high OFFSET 0) e ON true;
END $$;
