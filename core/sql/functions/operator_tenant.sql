-- The tenant whose subscriptions receive operational events. Our own sessions carry it as a setting
-- (POSTRIDER_OPERATOR_TENANT); sessions of others have none, and then it is the default.
CREATE OR REPLACE FUNCTION operator_tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(nullif(current_setting('postrider.operator_tenant', true), ''), 'operator')
$$;
