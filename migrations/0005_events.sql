-- What events need besides a subscription to be posted to: filters, tenants on every record, idempotency keys, inline
-- deliveries, the outbox, replays, API keys and the audit log.

ALTER TABLE subscriptions ADD COLUMN filters jsonb;          -- NULL means none

ALTER TABLE events
    ADD COLUMN metadata     jsonb,                           -- flat object of strings; NULL means none
    ADD COLUMN external_id  text,                            -- the producer's own id, where it gave one
    ADD COLUMN ordering_key text,
    ADD COLUMN deliver_at   timestamptz,                     -- NULL means at once
    ADD COLUMN expires_at   timestamptz,                     -- NULL means never
    ADD COLUMN is_inline    boolean NOT NULL DEFAULT false;  -- for one URL, and never for a subscription
-- Lists of a tenant, of a type, and of a type of a tenant.
CREATE INDEX events_tenant ON events (tenant_id, id);
CREATE INDEX events_type ON events (event_type, id);
CREATE INDEX events_tenant_type ON events (tenant_id, event_type, id);

-- An event's deliveries that were made with it share the first half of its id, so they are found by the primary key.
ALTER TABLE deliveries
    ADD COLUMN tenant_id text NOT NULL DEFAULT 'default',
    ADD COLUMN is_replay boolean NOT NULL DEFAULT false,     -- made later than its event, because somebody asked
    ADD COLUMN replay_of uuid,                               -- the delivery that this one replays, if any
    ADD COLUMN replay_id uuid,                               -- the replay of a range that made it, if one did
    ALTER COLUMN subscription_id DROP NOT NULL;              -- NULL means an inline delivery
UPDATE deliveries d SET tenant_id = e.tenant_id FROM events e WHERE e.id = d.event_id AND e.tenant_id <> 'default';
CREATE INDEX deliveries_tenant ON deliveries (tenant_id, id);
-- Replays are few, so what is known of them costs other deliveries nothing.
CREATE INDEX deliveries_replay ON deliveries (replay_id, id) WHERE replay_id IS NOT NULL;
CREATE INDEX deliveries_replay_of ON deliveries (replay_of) WHERE replay_of IS NOT NULL;
CREATE INDEX deliveries_replayed_event ON deliveries (event_id, id) WHERE is_replay;

ALTER TABLE dead_letters
    ADD COLUMN tenant_id text,                               -- filled in by the trigger below
    ALTER COLUMN subscription_id DROP NOT NULL;
UPDATE dead_letters x SET tenant_id = d.tenant_id FROM deliveries d WHERE d.id = x.delivery_id;
CREATE INDEX dead_letters_tenant ON dead_letters (tenant_id, delivery_id);
CREATE FUNCTION complete_dead_letter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.tenant_id := (SELECT d.tenant_id FROM deliveries d WHERE d.id = NEW.delivery_id);
    RETURN NEW;
END $$;
CREATE TRIGGER dead_letters_complete BEFORE INSERT ON dead_letters
    FOR EACH ROW EXECUTE FUNCTION complete_dead_letter();
ALTER TABLE lanes ALTER COLUMN subscription_id DROP NOT NULL; -- NULL means a lane of inline deliveries

-- Where an inline delivery goes and how. Partitioned as deliveries are, and dropped with them.
CREATE TABLE inline_deliveries (
    delivery_id  uuid PRIMARY KEY,
    lane_id      uuid NOT NULL,
    target_url   text NOT NULL,
    retry_policy jsonb,                                      -- NULL means the default schedule
    timeout_ms   integer NOT NULL,
    secret       bytea,                                      -- sealed; NULL means unsigned
    headers      bytea NOT NULL                              -- sealed
) PARTITION BY RANGE (delivery_id);

-- A key is a promise to answer the same again. Of an event the answer is made anew from what is stored; of anything
-- else it is kept, sealed, because it may hold a secret.
CREATE TABLE idempotency_keys (
    tenant_id   text NOT NULL,
    key         text NOT NULL,                               -- where it comes from, and its text: see core/src/idempotency.rs
    fingerprint bytea NOT NULL,                              -- SHA-256 of what was asked
    event_id    uuid,
    answer      bytea,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- Events that were published by SQL and wait for their fan-out, each until a worker comes by a moment after the commit.
CREATE TABLE outbox (
    event_id     uuid PRIMARY KEY,
    tenant_id    text NOT NULL,
    event_type   text NOT NULL,
    payload      bytea NOT NULL,
    metadata     jsonb,
    ordering_key text,
    deliver_at   timestamptz,
    expires_at   timestamptz,
    retry_at     timestamptz NOT NULL DEFAULT '-infinity',   -- not to be tried before: something was wrong with it
    fanned_out_to uuid                                       -- of a wide fan-out, the last subscription of the part that is done
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TYPE replay_state AS ENUM ('running', 'completed', 'canceled');

-- A subscription's past, being delivered again. One step is one transaction, so a worker that dies leaves it where the
-- last step ended.
CREATE TABLE replays (
    id              uuid PRIMARY KEY,
    tenant_id       text NOT NULL,
    subscription_id uuid NOT NULL,
    since           timestamptz NOT NULL,
    until           timestamptz NOT NULL,
    event_types     text[] NOT NULL,                         -- patterns; empty means every type
    statuses        text[] NOT NULL,                         -- of deliveries, and 'missed'
    rate_per_second integer NOT NULL,
    state           replay_state NOT NULL DEFAULT 'running',
    walking         text NOT NULL,                           -- 'deliveries', then 'events' where 'missed' is asked for
    position        uuid NOT NULL,                           -- everything up to it has been looked at
    examined_count  bigint NOT NULL DEFAULT 0,
    replayed_count  bigint NOT NULL DEFAULT 0,
    next_step_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz
);
CREATE INDEX replays_running ON replays (next_step_at) WHERE state = 'running';
CREATE INDEX replays_subscription ON replays (subscription_id, id);

CREATE TABLE api_keys (
    id           uuid PRIMARY KEY,
    tenant_id    text,                                       -- NULL means every tenant
    name         text NOT NULL,
    scopes       text[] NOT NULL,
    digest       bytea NOT NULL UNIQUE,                      -- SHA-256 of the key; the key itself is nowhere
    hint         text NOT NULL,                              -- the first characters, by which people recognize it
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz
);

-- Who changed what. Written in the transaction of the change, never changed, kept for a year.
CREATE TABLE audit_log (
    id         uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant_id  text,                                         -- NULL where it concerns no single tenant
    actor      text NOT NULL,                                -- a key's id, 'admin_key', or 'postrider'
    action     text NOT NULL,                                -- 'subscription.created'
    target_id  text NOT NULL,
    before     jsonb,                                        -- secrets redacted
    after      jsonb
);
CREATE INDEX audit_log_tenant ON audit_log (tenant_id, id);
CREATE INDEX audit_log_target ON audit_log (target_id, id);

-- One channel for everything that processes keep in memory.
DROP TRIGGER subscriptions_announce ON subscriptions;
DROP FUNCTION announce_subscription();
CREATE FUNCTION announce_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_TABLE_SCHEMA || '_changes', CASE TG_TABLE_NAME
        WHEN 'subscriptions' THEN 'subscription ' || (to_jsonb(NEW) ->> 'id') || ' ' || NEW.tenant_id
        ELSE 'api_key ' || (to_jsonb(NEW) ->> 'digest') END);
    RETURN NULL;
END $$;
CREATE TRIGGER subscriptions_announce AFTER INSERT OR UPDATE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION announce_change();
CREATE TRIGGER api_keys_announce AFTER INSERT OR UPDATE OF revoked_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION announce_change();

-- Partitions, now of inline_deliveries too.
CREATE OR REPLACE FUNCTION ensure_partitions(first date, last date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    parent  text;
    day     date;
    part    text;
    made    integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(current_schema() || '.partitions'));
    FOREACH parent IN ARRAY ARRAY['events', 'deliveries', 'attempts', 'inline_deliveries'] LOOP
        FOR day IN SELECT generate_series(first, last, interval '1 day')::date LOOP
            part := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
            CONTINUE WHEN to_regclass(format('%I.%I', current_schema(), part)) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING STORAGE)', part, parent);
            IF parent = 'deliveries' THEN
                -- Room on each page for the one HOT update that every delivery gets.
                EXECUTE format('ALTER TABLE %I SET (fillfactor = 85)', part);
            END IF;
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part,
                uuid_floor(day::timestamp AT TIME ZONE 'UTC'),
                uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC'));
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

CREATE OR REPLACE VIEW partitions AS
    SELECT p.relname::text AS parent, c.relname::text AS name,
           to_date(right(c.relname, 8), 'YYYYMMDD') AS day
      FROM pg_inherits i
      JOIN pg_class p ON p.oid = i.inhparent
      JOIN pg_class c ON c.oid = i.inhrelid
      JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = current_schema()
     WHERE p.relname IN ('events', 'deliveries', 'attempts', 'inline_deliveries') AND c.relkind = 'r'
     ORDER BY day, parent;

SELECT ensure_partitions((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + 7);
