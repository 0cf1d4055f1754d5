-- Writes outcomes down in one durable transaction, and returns the deliveries that were changed; an outcome whose lease
-- was lost meanwhile changes nothing. A batch may contain each delivery only once. A success touches no lane
-- whose receiver is well and in which nobody waits for it.
CREATE OR REPLACE FUNCTION record_outcomes(outcomes outcome[]) RETURNS uuid[] LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    t           constant timestamptz := clock_timestamp();
    ids         uuid[];              -- of each outcome, position by position
    tokens      bigint[];
    statuses    delivery_status[];
    is_eventful boolean;             -- an attempt failed, or others of the lane wait for the outcome
    finished    uuid[];
    finished_in uuid[];              -- the lane of each
    applied     uuid[];
    back        record;
BEGIN
    SELECT array_agg(i.delivery_id), array_agg(i.lease_token), array_agg(i.status),
           bool_or(i.is_awaited OR i.status <> 'succeeded')
      INTO ids, tokens, statuses, is_eventful
      FROM unnest(outcomes) i;

    WITH gone AS (
        DELETE FROM queue q
         WHERE q.ctid = ANY (ARRAY(
               SELECT x.tid FROM unnest(outcomes) i
                CROSS JOIN LATERAL (SELECT q2.ctid AS tid FROM queue q2
                                     WHERE q2.delivery_id = i.delivery_id AND q2.lease_token = i.lease_token
                                       AND i.status <> 'pending' OFFSET 0) x))
           AND q.lease_token = tokens[array_position(ids, q.delivery_id)]
        RETURNING q.delivery_id, q.lane_id
    )
    SELECT coalesce(array_agg(g.delivery_id), '{}'), coalesce(array_agg(g.lane_id), '{}') INTO finished, finished_in
      FROM gone g;
    applied := finished;
    SELECT NULL::uuid[] AS put_back, NULL::uuid[] AS put_back_in, NULL::timestamptz[] AS dues INTO back;
    IF 'pending' = ANY (statuses) THEN
        SELECT * INTO back FROM put_back_outcomes(outcomes, t);
        applied := applied || back.put_back;
    END IF;
    IF is_eventful OR EXISTS (SELECT FROM lane_leases x WHERE x.lane_id = ANY (finished_in))
       OR EXISTS (SELECT FROM (SELECT DISTINCT f FROM unnest(finished_in) f) x WHERE is_troubled(x.f)) THEN
        PERFORM move_lanes(outcomes, ids, applied, finished_in || back.put_back_in,
                           array_fill(NULL::timestamptz, ARRAY[cardinality(finished)]) || back.dues, t);
    END IF;

    INSERT INTO attempts (delivery_id, number, started_at, duration_ms, status_code, error_kind, error,
                          response_headers, response_body, response_truncated,
                          dns_us, connect_us, tls_us, first_byte_us, total_us, peer_address, is_reused)
    SELECT i.delivery_id, i.number, i.started_at, i.duration_ms, i.status_code, i.error_kind, i.error,
           i.response_headers, i.response_body, i.response_truncated,
           i.dns_us, i.connect_us, i.tls_us, i.first_byte_us, i.total_us, i.peer_address::inet, i.is_reused
      FROM unnest(outcomes) i
     WHERE i.started_at IS NOT NULL
       AND (cardinality(applied) = cardinality(ids) OR i.delivery_id = ANY (applied))
        ON CONFLICT DO NOTHING;

    IF cardinality(finished) > 0 THEN
        PERFORM finish_deliveries(finished, ids, statuses, t);
    END IF;
    IF 'dead_letter' = ANY (statuses) THEN
        PERFORM bury_deliveries(ARRAY(SELECT i.delivery_id FROM unnest(outcomes) i
                                       WHERE i.status = 'dead_letter' AND i.delivery_id = ANY (finished)), t);
    END IF;
    RETURN applied;
END $$;
