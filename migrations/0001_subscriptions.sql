-- Which subscriptions want which events, and who may change them: subscriptions with their secrets, API keys, the audit
-- log, and the announcements by which every process drops rows from memory that have changed.
--
-- Everything is in the schema that the session's search_path names first, so several services can share one database;
-- no migration names a schema. Functions are in core/sql/functions, except those that migrations need.

-- The installed version of each function in core/sql/functions: its text, and the Postrider version that installed it.
CREATE TABLE sql_functions (
    name         text PRIMARY KEY,
    digest       bytea NOT NULL,                 -- SHA-256 of the file
    version      integer[] NOT NULL,             -- major, minor, patch: an older process does not put its text back
    installed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TYPE subscription_state AS ENUM ('active', 'paused', 'disabled');

CREATE TABLE subscriptions (
    id               uuid PRIMARY KEY,
    tenant_id        text NOT NULL,
    name             text,
    target_url       text NOT NULL,
    event_types      text[] NOT NULL,            -- patterns; empty means every type
    filters          json,                       -- as its owner wrote it, number by number; NULL means none
    metadata         jsonb NOT NULL,             -- flat object of strings
    retry_policy     jsonb,                      -- NULL means the default schedule
    timeout_ms       integer NOT NULL,
    state            subscription_state NOT NULL DEFAULT 'active',
    disabled_reason  text,
    secret           bytea NOT NULL,             -- sealed
    headers          bytea NOT NULL,             -- sealed JSON object: custom headers often carry tokens
    signature_scheme text NOT NULL DEFAULT 'standard',
    ingest_auth      text NOT NULL DEFAULT 'key_or_signature',
    ingest_signature bytea,                      -- sealed JSON; NULL means X-Hub-Signature-256 with its own secret
    ingest_event_type_header text,               -- where a provider names its events; NULL means X-Event-Type only
    ingest_rate_limit_per_second integer,        -- NULL means none
    circuit          jsonb DEFAULT '{"failures_in_a_row": 10, "failure_percent": 80, "samples_min": 20,
                                     "window_seconds": 60, "cooldown_seconds": 30, "cooldown_max_seconds": 900,
                                     "probes": 1, "successes_to_close": 2}',  -- NULL means that it is switched off
    rate_limit_per_second double precision,      -- of attempts; NULL means no limit
    rate_limit_burst integer,                    -- NULL means one second's worth, at least 1
    max_in_flight    integer,                    -- attempts at once, over all workers; NULL means no limit
    ordering         text NOT NULL DEFAULT 'none',  -- 'none' or 'fifo'
    disable_after_days integer DEFAULT 5,        -- of nothing but failures; NULL means never
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    deleted_at       timestamptz                 -- soft delete: old deliveries still show where they went
);
CREATE INDEX subscriptions_tenant ON subscriptions (tenant_id, id) WHERE deleted_at IS NULL;

-- Replaced secrets that go on signing for a while. Every change here comes with a change of the subscription's own row,
-- which announces it.
CREATE TABLE previous_secrets (
    subscription_id uuid NOT NULL REFERENCES subscriptions,
    replaced_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    secret          bytea NOT NULL,              -- sealed, as it was in subscriptions
    expires_at      timestamptz NOT NULL,
    PRIMARY KEY (subscription_id, replaced_at)
);
CREATE INDEX previous_secrets_expiry ON previous_secrets (expires_at);

CREATE TABLE api_keys (
    id           uuid PRIMARY KEY,
    tenant_id    text,                           -- NULL means every tenant
    name         text NOT NULL,
    scopes       text[] NOT NULL,
    digest       bytea NOT NULL UNIQUE,          -- SHA-256 of the key; the key itself is not stored
    hint         text NOT NULL,                  -- the first characters, by which people recognize it
    rate_limit_per_second integer,               -- of requests that post events; NULL means none
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz
);
-- The list of tenants hops through it from one name to the next.
CREATE INDEX api_keys_tenant ON api_keys (tenant_id) WHERE revoked_at IS NULL;

-- Who changed what. An entry is written in the transaction of its change, never changed afterwards, and kept for a
-- year.
CREATE TABLE audit_log (
    id         uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant_id  text,                             -- NULL where the change concerns no single tenant
    actor      text NOT NULL,                    -- a key's id, 'admin_key', or 'postrider'
    action     text NOT NULL,                    -- 'subscription.created'
    target_id  text NOT NULL,
    before     json,                             -- secrets redacted; numbers as they were written
    after      json
);
CREATE INDEX audit_log_tenant ON audit_log (tenant_id, id);
CREATE INDEX audit_log_target ON audit_log (target_id, id);

-- Every change to rows that processes keep in memory is announced on one channel, so that all of them drop the old row.
-- Such changes are rare, so here the NOTIFY may be part of the transaction.
CREATE FUNCTION announce_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A row of subscriptions has no form as jsonb where its filters hold a NUL or a number beyond numeric.
    IF TG_TABLE_NAME = 'subscriptions' THEN
        PERFORM pg_notify(TG_TABLE_SCHEMA || '_changes', 'subscription ' || NEW.id || ' ' || NEW.tenant_id);
    ELSE
        PERFORM pg_notify(TG_TABLE_SCHEMA || '_changes', 'api_key ' || (to_jsonb(NEW) ->> 'digest'));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER subscriptions_announce AFTER INSERT OR UPDATE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION announce_change();
CREATE TRIGGER api_keys_announce AFTER INSERT OR UPDATE OF revoked_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION announce_change();
