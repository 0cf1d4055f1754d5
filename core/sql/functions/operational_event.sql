-- Publishes an event about a subscription to the operator's tenant, if the transaction commits; a worker then fans it
-- out, as it does for publish(). `subscription` is NULL for what concerns a tenant's inline deliveries; `facts` has the
-- fields that this type of event has besides those that all of them have. Returns whether the event was published: not
-- where nobody listens, and never about the operator's own tenant, because the delivery of such an event may cause the
-- next one.
CREATE OR REPLACE FUNCTION operational_event(
    event_type text, tenant text, subscription uuid, facts jsonb
) RETURNS boolean LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    sub     constant text := 'sub_' || replace(subscription::text, '-', '');
    payload jsonb := jsonb_build_object('event_type', event_type, 'occurred_at', clock_timestamp(),
                                        'tenant_id', tenant) || facts;
BEGIN
    IF tenant = operator_tenant() OR NOT operator_listens() THEN
        RETURN false;
    END IF;
    IF sub IS NULL THEN
        payload := payload || jsonb_build_object('links', jsonb_build_object('dead_letters', '/dead-letters'));
    ELSE
        payload := payload || jsonb_build_object('subscription_id', sub, 'links', jsonb_build_object(
            'subscription', '/subscriptions/' || sub,
            'health', '/subscriptions/' || sub || '/health',
            'deliveries', '/subscriptions/' || sub || '/deliveries',
            'dead_letters', '/dead-letters?subscription_id=' || sub));
    END IF;
    -- Events about one subscription stay in their order, where the operator wants that.
    INSERT INTO outbox (event_id, tenant_id, event_type, payload, ordering_key)
    VALUES (uuid_v7(), operator_tenant(), event_type, convert_to(payload::text, 'UTF8'), sub);
    PERFORM pg_notify(current_schema() || '_outbox', '');
    RETURN true;
END $$;
