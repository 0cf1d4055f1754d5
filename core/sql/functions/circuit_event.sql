-- Tells the operator that the circuit of a subscription's lane has become `kind`: opened, half_open or closed; and why.
CREATE OR REPLACE FUNCTION circuit_event(kind text, lane lanes, reason text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF lane.subscription_id IS NULL THEN
        RETURN;
    END IF;
    PERFORM operational_event('postrider.circuit.' || kind, s.tenant_id, s.id,
                              jsonb_strip_nulls(jsonb_build_object(
                                  'reason', reason, 'opened_at', lane.opened_at, 'next_probe_at', lane.open_until,
                                  'cooldown_seconds', lane.cooldown_seconds,
                                  'failures_in_a_row', lane.failures_in_a_row)))
       FROM subscriptions s WHERE s.id = lane.subscription_id;
END $$;
