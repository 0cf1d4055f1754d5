-- The part of record_outcomes() that puts deliveries on the list of dead letters, each with the cause of its last
-- attempt, which is stored already. The operator is told of them.
CREATE OR REPLACE FUNCTION bury_deliveries(ids uuid[], t timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dead_letters (delivery_id, tenant_id, subscription_id, created_at, status_code, error_kind)
    SELECT d.id, d.tenant_id, d.subscription_id, t, a.status_code, a.error_kind
      FROM unnest(ids) AS i (id)
     CROSS JOIN LATERAL (SELECT x.id, x.tenant_id, x.subscription_id FROM deliveries x WHERE x.id = i.id OFFSET 0) d
      LEFT JOIN LATERAL (SELECT x.status_code, x.error_kind FROM attempts x
                          WHERE x.delivery_id = i.id ORDER BY x.number DESC LIMIT 1) a ON true
        ON CONFLICT (delivery_id) DO UPDATE
       SET created_at = EXCLUDED.created_at, resolved_at = NULL, status_code = EXCLUDED.status_code,
           error_kind = EXCLUDED.error_kind;
    PERFORM note_dead_letters(ids);
END $$;
