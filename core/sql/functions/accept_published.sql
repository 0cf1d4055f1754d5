-- Accepts events of the outbox, and removes them from it: those that no other worker has taken meanwhile, or begun to
-- fan out. Returns their ids, and the lanes that were armed; for these, and for `notifies`, see accept().
CREATE OR REPLACE FUNCTION accept_published(
    new_events new_event[], new_deliveries new_delivery[], notifies boolean, OUT taken uuid[], OUT armed uuid[]
) LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    armed := '{}';
    WITH gone AS (
        DELETE FROM outbox o
         WHERE o.ctid = ANY (ARRAY(
               SELECT x.ctid FROM outbox x
                WHERE x.event_id = ANY (ARRAY(SELECT i.id FROM unnest(new_events) i)) AND x.fanned_out_to IS NULL
                  FOR UPDATE SKIP LOCKED))
        RETURNING o.event_id
    )
    SELECT coalesce(array_agg(g.event_id), '{}') INTO taken FROM gone g;
    IF cardinality(taken) < cardinality(new_events) THEN
        new_events := ARRAY(SELECT i FROM unnest(new_events) i WHERE i.id = ANY (taken));
        new_deliveries := ARRAY(SELECT d FROM unnest(new_deliveries) d WHERE d.event_id = ANY (taken));
    END IF;
    IF taken <> '{}' THEN
        SELECT a.armed INTO armed FROM accept(new_events, new_deliveries, '{}', 0, false, notifies) a;
    END IF;
END $$;
