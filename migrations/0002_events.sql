-- What was accepted and what became of it: events, deliveries, attempts, dead letters, and what belongs to them.
--
-- The big tables (events, deliveries, inline_deliveries, attempts) are range-partitioned by their UUIDv7 key, one
-- partition a UTC day, made by ensure_partitions(): a look-up by id touches one partition, and retention drops
-- partitions instead of deleting rows. Hot tables carry no foreign keys; their integrity is by construction and checked
-- by core/sql/invariants.sql.

CREATE TABLE events (
    id              uuid PRIMARY KEY,
    tenant_id       text NOT NULL,
    event_type      text NOT NULL,
    subscription_id uuid,                        -- the subscription it was posted to, where it was posted to one
    is_inline       boolean NOT NULL DEFAULT false, -- for one URL, and never for a subscription
    content_type    text NOT NULL,
    payload         bytea NOT NULL,              -- byte for byte what arrived
    metadata        jsonb,                       -- flat object of strings; NULL means none
    external_id     text,                        -- the producer's own id, where it gave one
    ordering_key    text,
    deliver_at      timestamptz,                 -- NULL means at once
    expires_at      timestamptz,                 -- NULL means never
    created_at      timestamptz NOT NULL
) PARTITION BY RANGE (id);
-- Compressing payloads on the hot path costs more CPU than the disk it saves.
ALTER TABLE events ALTER COLUMN payload SET STORAGE EXTERNAL;
-- Lists of a tenant, of a type, and of a type of a tenant.
CREATE INDEX events_tenant ON events (tenant_id, id);
CREATE INDEX events_type ON events (event_type, id);
CREATE INDEX events_tenant_type ON events (tenant_id, event_type, id);

-- The states a delivery is stored in. 'pending' means "not finished"; whether an unfinished delivery is in flight at
-- this moment is the queue's knowledge (a live lease), so that the record is written at ingest and once at the end.
CREATE TYPE delivery_status AS ENUM ('pending', 'succeeded', 'dead_letter', 'canceled');

-- Every index is on immutable columns, so that the one update a delivery gets stays HOT. An event's deliveries that
-- were made with it share the first half of its id, so they are found by the primary key.
CREATE TABLE deliveries (
    id              uuid PRIMARY KEY,
    event_id        uuid NOT NULL,
    tenant_id       text NOT NULL,
    subscription_id uuid,                        -- NULL means an inline delivery
    status          delivery_status NOT NULL DEFAULT 'pending',
    is_replay       boolean NOT NULL DEFAULT false, -- made later than its event, because somebody asked
    replay_of       uuid,                        -- the delivery that this one replays, if any
    replay_id       uuid,                        -- the replay of a range that made it, if one did
    created_at      timestamptz NOT NULL,
    finished_at     timestamptz
) PARTITION BY RANGE (id);
CREATE INDEX deliveries_subscription ON deliveries (subscription_id, id);
CREATE INDEX deliveries_tenant ON deliveries (tenant_id, id);
-- Replays are few, so what is known of them costs other deliveries nothing.
CREATE INDEX deliveries_replay ON deliveries (replay_id, id) WHERE replay_id IS NOT NULL;
CREATE INDEX deliveries_replay_of ON deliveries (replay_of) WHERE replay_of IS NOT NULL;
CREATE INDEX deliveries_replayed_event ON deliveries (event_id, id) WHERE is_replay;

-- Where an inline delivery goes and how. Partitioned as deliveries are, and dropped with them.
CREATE TABLE inline_deliveries (
    delivery_id      uuid PRIMARY KEY,
    lane_id          uuid NOT NULL,
    target_url       text NOT NULL,
    retry_policy     jsonb,                      -- NULL means the default schedule
    timeout_ms       integer NOT NULL,
    secret           bytea,                      -- sealed; NULL means unsigned
    headers          bytea NOT NULL,             -- sealed
    signature_scheme text NOT NULL DEFAULT 'standard'
) PARTITION BY RANGE (delivery_id);

CREATE TABLE attempts (
    delivery_id        uuid NOT NULL,
    number             integer NOT NULL,         -- 1 is the first try
    started_at         timestamptz NOT NULL,
    duration_ms        integer,                  -- NULL where nobody lived to measure it
    status_code        smallint,                 -- NULL where no response arrived
    error_kind         text,                     -- NULL for a success
    error              text,
    response_headers   jsonb,
    response_body      bytea,                    -- the head of it
    response_truncated boolean NOT NULL DEFAULT false,
    PRIMARY KEY (delivery_id, number)
) PARTITION BY RANGE (delivery_id);

-- Dead letters are found here, because an index on deliveries.status would spoil the HOT update. A row is gone once its
-- delivery has been put back or somebody has purged the list.
CREATE TABLE dead_letters (
    delivery_id     uuid PRIMARY KEY,
    tenant_id       text,
    subscription_id uuid,                        -- NULL means an inline delivery
    created_at      timestamptz NOT NULL DEFAULT now(),
    resolved_at     timestamptz                  -- when somebody marked it resolved
);
CREATE INDEX dead_letters_subscription ON dead_letters (subscription_id, delivery_id);
CREATE INDEX dead_letters_tenant ON dead_letters (tenant_id, delivery_id);

-- A key is a promise to answer the same again. Of an event the answer is made anew from what is stored; of anything
-- else it is kept, sealed, because it may hold a secret.
CREATE TABLE idempotency_keys (
    tenant_id   text NOT NULL,
    key         text NOT NULL,                   -- its namespace and its text: see core/src/event/idempotency.rs
    fingerprint bytea NOT NULL,                  -- SHA-256 of what was asked
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
    fanned_out_to uuid                           -- of a wide fan-out, the last subscription of the part that is done
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
    event_types     text[] NOT NULL,             -- patterns; empty means every type
    statuses        text[] NOT NULL,             -- of deliveries, and 'missed'
    rate_per_second integer NOT NULL,
    state           replay_state NOT NULL DEFAULT 'running',
    walking         text NOT NULL,               -- 'deliveries', then 'events' where 'missed' is asked for
    position        uuid NOT NULL,               -- everything up to it has been looked at
    examined_count  bigint NOT NULL DEFAULT 0,
    replayed_count  bigint NOT NULL DEFAULT 0,
    next_step_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz
);
CREATE INDEX replays_running ON replays (next_step_at) WHERE state = 'running';
CREATE INDEX replays_subscription ON replays (subscription_id, id);

-- Every partition with its day, oldest first.
CREATE VIEW partitions AS
    SELECT p.relname::text AS parent, c.relname::text AS name,
           to_date(right(c.relname, 8), 'YYYYMMDD') AS day
      FROM pg_inherits i
      JOIN pg_class p ON p.oid = i.inhparent
      JOIN pg_class c ON c.oid = i.inhrelid
      JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = current_schema()
     WHERE p.relname IN ('events', 'deliveries', 'attempts', 'inline_deliveries') AND c.relkind = 'r'
     ORDER BY day, parent;
