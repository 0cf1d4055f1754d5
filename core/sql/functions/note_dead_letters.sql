-- Notes dead letters of which the operator is to be told: a row for each of their subscriptions, whatever their number.
-- The rows are only inserted, so no transaction waits for another; a worker makes events of them. The deliveries must
-- be in dead_letters already. Those of the operator's own tenant are left out, and nothing is noted where nobody
-- listens.
CREATE OR REPLACE FUNCTION note_dead_letters(ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    sample_max constant integer := 10;
BEGIN
    IF cardinality(ids) = 0 OR NOT operator_listens() THEN
        RETURN;
    END IF;
    INSERT INTO dead_letter_notices (tenant_id, subscription_id, count, sample, first_at)
    SELECT x.tenant_id, x.subscription_id, count(*),
           (array_agg(x.delivery_id ORDER BY x.delivery_id))[1:sample_max], min(x.created_at)
      FROM unnest(ids) AS i (id)
     CROSS JOIN LATERAL (SELECT d.delivery_id, d.tenant_id, d.subscription_id, d.created_at
                           FROM dead_letters d WHERE d.delivery_id = i.id OFFSET 0) x
     WHERE x.tenant_id <> operator_tenant()
     GROUP BY x.tenant_id, x.subscription_id;
END $$;
