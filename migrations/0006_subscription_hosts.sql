-- The search of the dashboard finds subscriptions by the host of their URLs, which are stored in normal form. The
-- expression is the same in core/src/subscription/find.rs.
CREATE INDEX subscriptions_host
    ON subscriptions (substring(target_url FROM '^[a-z]+://(\[[^]]*\]|[^/:?#]*)'), id) WHERE deleted_at IS NULL;
