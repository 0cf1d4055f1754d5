-- The subscriptions that are not deleted, by state, and how many of each do nothing but fail: {"ok": 3, "failing": 1}.
CREATE OR REPLACE FUNCTION count_subscriptions(counted_max integer) RETURNS TABLE (state text, counts jsonb)
LANGUAGE sql STABLE SET enable_seqscan = on SET enable_hashjoin = on AS $$
    WITH failing AS MATERIALIZED (
        SELECT DISTINCT l.subscription_id AS id FROM lanes l
         WHERE l.failing_since IS NOT NULL AND l.subscription_id IS NOT NULL
    )
    SELECT s.state::text, jsonb_build_object('ok', count(*) FILTER (WHERE f.id IS NULL),
                                             'failing', count(*) FILTER (WHERE f.id IS NOT NULL))
      FROM (SELECT x.id, x.state FROM subscriptions x WHERE x.deleted_at IS NULL LIMIT counted_max) s
      LEFT JOIN failing f ON f.id = s.id
     GROUP BY s.state
$$;
