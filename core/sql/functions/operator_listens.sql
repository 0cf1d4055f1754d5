-- Whether the operator has a subscription that may receive operational events. A disabled one counts: what it misses
-- can be replayed. Where there is none, operational events and notices are not written, and cost no more than this
-- look.
CREATE OR REPLACE FUNCTION operator_listens() RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM subscriptions s WHERE s.tenant_id = operator_tenant() AND s.deleted_at IS NULL);
END $$;
