-- Tells the operator that the circuit of a subscription's lane has become `kind`: opened, half_open or closed.
CREATE OR REPLACE FUNCTION circuit_event(kind text, lane lanes) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF lane.subscription_id IS NULL THEN
        RETURN;
    END IF;
    PERFORM operational_event('postrider.circuit.' || kind, s.tenant_id, s.id,
                              jsonb_strip_nulls(jsonb_build_object(
                                  'reason', CASE kind
                                      WHEN 'opened' THEN 'the receiver keeps failing'
                                      WHEN 'half_open' THEN 'the cooldown is over, and the receiver is tried again'
                                      ELSE 'the receiver answers again' END,
                                  'opened_at', lane.opened_at, 'next_probe_at', lane.open_until,
                                  'cooldown_seconds', lane.cooldown_seconds,
                                  'failures_in_a_row', lane.failures_in_a_row)))
       FROM subscriptions s WHERE s.id = lane.subscription_id;
END $$;
