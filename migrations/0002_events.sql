-- Accepted events and what follows from them: deliveries, attempts, dead letters, and the tables that belong to them.
--
-- The big tables (events, deliveries, inline_deliveries, attempts) are range-partitioned by their UUIDv7 key, with one
-- partition for each UTC day, made by ensure_partitions(). A look-up by id touches one partition, and retention drops
-- partitions instead of deleting rows. Hot tables have no foreign keys: the functions that write them keep them
-- consistent, and core/sql/invariants.sql checks that.

CREATE TABLE events (
    id               uuid PRIMARY KEY,
    tenant_id        text NOT NULL,
    event_type       text NOT NULL,
    subscription_id  uuid,                       -- the subscription it was posted to, where it was posted to one
    is_inline        boolean NOT NULL DEFAULT false, -- for one URL, and never for a subscription
    content_type     text NOT NULL,
    content_encoding text,                       -- how the payload was packed before it was posted; NULL means not
    payload          bytea NOT NULL,             -- byte for byte what arrived
    metadata         jsonb,                      -- flat object of strings; NULL means none
    external_id      text,                       -- the producer's own id, where it gave one
    ordering_key     text,
    deliver_at       timestamptz,                -- NULL means at once
    expires_at       timestamptz,                -- NULL means never
    traceparent      text,                       -- of the W3C Trace Context, version 00; NULL means no trace
    tracestate       text,
    created_at       timestamptz NOT NULL
) PARTITION BY RANGE (id);
-- Compressing payloads on the hot path costs more in CPU time than it saves on disk.
ALTER TABLE events ALTER COLUMN payload SET STORAGE EXTERNAL;
-- For lists of a tenant's events, of a type's events, and of a tenant's events of one type.
CREATE INDEX events_tenant ON events (tenant_id, id);
CREATE INDEX events_type ON events (event_type, id);
CREATE INDEX events_tenant_type ON events (tenant_id, event_type, id);

-- The stored states of a delivery. 'pending' means "not finished". Only the queue knows whether an unfinished delivery
-- is in flight (it then has a live lease), so that the record is written only at ingest and at the end.
CREATE TYPE delivery_status AS ENUM ('pending', 'succeeded', 'dead_letter', 'canceled');

-- All indexes are on columns that never change, so that the one update of each delivery stays HOT. Deliveries that were
-- made with their event share the first half of its id, so the primary key finds them.
CREATE TABLE deliveries (
    id              uuid PRIMARY KEY,
    event_id        uuid NOT NULL,
    tenant_id       text NOT NULL,
    subscription_id uuid,                        -- NULL means an inline delivery
    status          delivery_status NOT NULL DEFAULT 'pending',
    is_replay       boolean NOT NULL DEFAULT false, -- made later than its event, because somebody asked
    replay_of       uuid,                        -- the delivery that this one replays, if any
    job_id          uuid,                        -- the job that made it, if one did
    created_at      timestamptz NOT NULL,
    finished_at     timestamptz
) PARTITION BY RANGE (id);
CREATE INDEX deliveries_subscription ON deliveries (subscription_id, id);
CREATE INDEX deliveries_tenant ON deliveries (tenant_id, id);
-- Replays are few, so these partial indexes cost other deliveries nothing.
CREATE INDEX deliveries_job ON deliveries (job_id, id) WHERE job_id IS NOT NULL;
CREATE INDEX deliveries_replay_of ON deliveries (replay_of) WHERE replay_of IS NOT NULL;
CREATE INDEX deliveries_replayed_event ON deliveries (event_id, id) WHERE is_replay;

-- The destination of an inline delivery. The table is partitioned like deliveries, and dropped with them.
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
    duration_ms        integer,                  -- NULL where the worker died first
    status_code        smallint,                 -- NULL where no response arrived
    error_kind         text,                     -- NULL for a success
    error              text,
    response_headers   jsonb,
    response_body      bytea,                    -- only its beginning
    response_truncated boolean NOT NULL DEFAULT false,
    dns_us             integer,                  -- microseconds of its phases; NULL where it did not come to one
    connect_us         integer,
    tls_us             integer,
    first_byte_us      integer,                  -- from the beginning until the head of the answer had arrived
    total_us           integer,                  -- duration_ms, but finer
    peer_address       inet,                     -- NULL where no connection was made
    is_reused          boolean,                  -- whether the connection was opened for an earlier attempt
    PRIMARY KEY (delivery_id, number)
) PARTITION BY RANGE (delivery_id);

-- The list of dead letters. It is a table of its own, because an index on deliveries.status would spoil the HOT update.
-- A row is removed when its delivery has been put back, or when somebody has purged the list.
CREATE TABLE dead_letters (
    delivery_id     uuid PRIMARY KEY,
    tenant_id       text,
    subscription_id uuid,                        -- NULL means an inline delivery
    created_at      timestamptz NOT NULL DEFAULT now(),
    resolved_at     timestamptz,                 -- when somebody marked it resolved
    status_code     smallint,                    -- of its last attempt, by which dead letters are grouped
    error_kind      text                         -- likewise
);
CREATE INDEX dead_letters_subscription ON dead_letters (subscription_id, delivery_id);
CREATE INDEX dead_letters_tenant ON dead_letters (tenant_id, delivery_id);

-- A key promises the same answer to a repeated request. The answer for an event holds only ids; any other answer is
-- sealed, because it may hold a secret.
CREATE TABLE idempotency_keys (
    tenant_id   text NOT NULL,
    key         text NOT NULL,                   -- its namespace and its text: see core/src/event/idempotency.rs
    fingerprint bytea NOT NULL,                  -- SHA-256 of the request
    event_id    uuid,
    answer      bytea,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- Events that were published by SQL and wait for their fan-out. A worker usually takes them a moment after the commit.
CREATE TABLE outbox (
    event_id     uuid PRIMARY KEY,
    tenant_id    text NOT NULL,
    event_type   text NOT NULL,
    payload      bytea NOT NULL,
    metadata     jsonb,
    ordering_key text,
    deliver_at   timestamptz,
    expires_at   timestamptz,
    traceparent  text,                           -- as it was named, valid or not
    tracestate   text,
    retry_at     timestamptz NOT NULL DEFAULT '-infinity',   -- after a failed fan-out, not tried before
    fanned_out_to uuid                           -- of a wide fan-out, the last subscription of the part that is done
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TYPE job_action AS ENUM ('retry', 'cancel', 'replay', 'resolve', 'purge');
CREATE TYPE job_state AS ENUM ('running', 'completed', 'canceled');

-- Jobs: something is done with all deliveries that match a filter. A job reads rows in the order of their ids. One step
-- is one transaction, so if a worker dies, the job goes on after the last complete step.
CREATE TABLE jobs (
    id              uuid PRIMARY KEY,
    tenant_id       text,                        -- NULL means every tenant
    subscription_id uuid,                        -- the one that the filter names, for lists
    action          job_action NOT NULL,
    filter          jsonb NOT NULL,              -- see core/src/delivery/job/filter.rs
    rate_per_second integer,                     -- NULL means as fast as the steps go
    state           job_state NOT NULL DEFAULT 'running',
    walking         text NOT NULL,               -- the rows that it is reading: a word of Walk
    began_at        uuid NOT NULL,               -- the position before the first row
    position        uuid NOT NULL,               -- everything up to it has been looked at
    at_once_max     integer NOT NULL,            -- deliveries of its next step, at most: fewer after one that failed
    to_cancel       uuid,                        -- of a replay that was canceled: those before it may still wait
    examined_count  bigint NOT NULL DEFAULT 0,
    done_count      bigint NOT NULL DEFAULT 0,
    skipped_count   bigint NOT NULL DEFAULT 0,   -- those that match, but with which nothing could be done
    failed_count    bigint NOT NULL DEFAULT 0,   -- those that the database refused
    next_step_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz
);
CREATE INDEX jobs_unfinished ON jobs (next_step_at) WHERE state = 'running' OR to_cancel IS NOT NULL;
CREATE INDEX jobs_subscription ON jobs (subscription_id, id);
CREATE INDEX jobs_tenant ON jobs (tenant_id, id);

-- Emitters: streams of sample events at a rate, to one subscription or to all of a tenant that want them. A worker
-- makes the events of a step in one transaction with the count, so none is lost and none is made twice.
CREATE TABLE emitters (
    id              uuid PRIMARY KEY,
    tenant_id       text NOT NULL,
    subscription_id uuid,                        -- NULL means that the events are published
    event_type      text NOT NULL,
    template        text NOT NULL,               -- JSON; placeholders stand in its strings
    rate_per_second double precision NOT NULL,
    status          text NOT NULL DEFAULT 'running', -- then 'stopped' or 'ended'
    emitted         bigint NOT NULL DEFAULT 0,
    skipped         bigint NOT NULL DEFAULT 0,   -- were due while no worker ran, and are left out
    next_step_at    timestamptz NOT NULL DEFAULT clock_timestamp(), -- a step that is under way puts it off
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(), -- the first event is due then
    ends_at         timestamptz NOT NULL,
    finished_at     timestamptz,
    last_error      text,
    last_error_at   timestamptz
);
CREATE INDEX emitters_running ON emitters (next_step_at) WHERE status = 'running';
CREATE INDEX emitters_tenant ON emitters (tenant_id, id);
CREATE INDEX emitters_finished ON emitters (finished_at) WHERE finished_at IS NOT NULL;

-- Demos. All that a demo has made is removed when its time is over, by whichever worker finds it, also where the
-- process that began it is gone.
CREATE TABLE demos (
    id               uuid PRIMARY KEY,
    subscription_ids uuid[] NOT NULL,            -- in the order of the demo receivers: see core/src/demo.rs
    started_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    ends_at          timestamptz NOT NULL,       -- from then on it may be removed
    removed_at       timestamptz
);
CREATE UNIQUE INDEX demos_running ON demos ((true)) WHERE removed_at IS NULL;

-- The partitioned tables: how much time a partition covers, whether it is found by an id or by a time, and the share of
-- each page that is filled at first, in percent. The rest leaves room for HOT updates.
CREATE VIEW partitioned_tables (parent, unit, is_by_id, fillfactor) AS
    VALUES ('events', 'day', true, 100),
           ('deliveries', 'day', true, 85),      -- each gets one update
           ('attempts', 'day', true, 100),
           ('inline_deliveries', 'day', true, 100),
           ('stats_minute', 'day', false, 70),   -- of the statistics, each row gets a few updates
           ('accepted_minute', 'day', false, 70),
           ('stats_causes', 'day', false, 70),
           ('stats_hour', 'month', false, 100),
           ('accepted_hour', 'month', false, 100);

-- Every partition with its first and its last day, the oldest first.
CREATE VIEW partitions AS
    SELECT p.relname::text AS parent, c.relname::text AS name, d.day,
           (d.day + ('1 ' || t.unit)::interval)::date - 1 AS last_day, t.is_by_id
      FROM pg_inherits i
      JOIN pg_class p ON p.oid = i.inhparent
      JOIN pg_class c ON c.oid = i.inhrelid
      JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = current_schema()
      JOIN partitioned_tables t ON t.parent = p.relname
     CROSS JOIN LATERAL (SELECT CASE WHEN c.relname ~ '_[0-9]{8}$' THEN to_date(right(c.relname, 8), 'YYYYMMDD') END
                                    AS day) d
     WHERE c.relkind = 'r'
     ORDER BY d.day, parent;
