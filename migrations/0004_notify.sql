-- Every change of a subscription is announced on a channel of its own, so that the caches of all processes drop it at
-- once. Configuration changes are rare, so here the NOTIFY may ride in the transaction.
CREATE FUNCTION announce_subscription() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_TABLE_SCHEMA || '_subscriptions', NEW.id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER subscriptions_announce AFTER INSERT OR UPDATE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION announce_subscription();
