-- The tables of Postrider. Everything lives in the schema that the session's search_path names first, so several
-- services can share one database; nothing here names a schema.
--
-- Big tables (events, deliveries, attempts) are range-partitioned by their UUIDv7 key, one partition a UTC day: a
-- look-up by id touches one partition, and retention drops partitions instead of deleting rows. Hot tables carry no
-- foreign keys; their integrity is by construction and checked by invariants.sql.

-- The states a delivery is stored in. 'pending' means "not finished"; whether an unfinished delivery is in flight at
-- this moment is the queue's knowledge (a live lease), so that the record is written at ingest and once at the end.
CREATE TYPE delivery_status AS ENUM ('pending', 'succeeded', 'dead_letter', 'canceled');

CREATE TYPE subscription_state AS ENUM ('active', 'paused', 'disabled');

CREATE TABLE subscriptions (
    id              uuid PRIMARY KEY,
    tenant_id       text NOT NULL,
    name            text,
    target_url      text NOT NULL,
    event_types     text[] NOT NULL,            -- patterns; empty means every type
    metadata        jsonb NOT NULL,             -- flat object of strings
    retry_policy    jsonb,                      -- NULL means the default schedule
    timeout_ms      integer NOT NULL,
    state           subscription_state NOT NULL DEFAULT 'active',
    disabled_reason text,
    secret          bytea NOT NULL,             -- sealed
    headers         bytea NOT NULL,             -- sealed JSON object: custom headers often carry tokens
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    deleted_at      timestamptz                 -- soft delete: old deliveries still show where they went
);
CREATE INDEX subscriptions_tenant ON subscriptions (tenant_id, id) WHERE deleted_at IS NULL;

CREATE TABLE events (
    id              uuid PRIMARY KEY,
    tenant_id       text NOT NULL,
    event_type      text NOT NULL,
    subscription_id uuid,                       -- the subscription it was posted to, where it was posted to one
    content_type    text NOT NULL,
    payload         bytea NOT NULL,             -- byte for byte what arrived
    created_at      timestamptz NOT NULL
) PARTITION BY RANGE (id);
-- Compressing payloads on the hot path costs more CPU than the disk it saves.
ALTER TABLE events ALTER COLUMN payload SET STORAGE EXTERNAL;

-- Every index is on immutable columns, so that the one update a delivery gets stays HOT.
CREATE TABLE deliveries (
    id              uuid PRIMARY KEY,
    event_id        uuid NOT NULL,
    subscription_id uuid NOT NULL,
    status          delivery_status NOT NULL DEFAULT 'pending',
    created_at      timestamptz NOT NULL,
    finished_at     timestamptz
) PARTITION BY RANGE (id);
CREATE INDEX deliveries_subscription ON deliveries (subscription_id, id);

CREATE TABLE attempts (
    delivery_id        uuid NOT NULL,
    number             smallint NOT NULL,       -- 1 is the first try
    started_at         timestamptz NOT NULL,
    duration_ms        integer,                 -- NULL where nobody lived to measure it
    status_code        smallint,                -- NULL where no response arrived
    error_kind         text,                    -- NULL for a success
    error              text,
    response_headers   jsonb,
    response_body      bytea,                   -- the head of it
    response_truncated boolean NOT NULL DEFAULT false,
    PRIMARY KEY (delivery_id, number)
) PARTITION BY RANGE (delivery_id);

-- Dead letters are found here, because an index on deliveries.status would spoil the HOT update. A row is gone once its
-- delivery has been put back or somebody has purged the list.
CREATE TABLE dead_letters (
    delivery_id     uuid PRIMARY KEY,
    subscription_id uuid NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    resolved_at     timestamptz                 -- when somebody marked it resolved
);
CREATE INDEX dead_letters_subscription ON dead_letters (subscription_id, delivery_id);

-- Only deliveries that are not finished: the work list, and its size is the backlog.
-- Autovacuum is told to come early and run at full speed; workers also vacuum it themselves every few seconds.
CREATE TABLE queue (
    delivery_id     uuid PRIMARY KEY,
    lane_id         uuid NOT NULL,
    event_id        uuid NOT NULL,
    due_at          timestamptz NOT NULL,       -- when it is due; while leased, when the lease expires
    lease_token     bigint,                     -- whose lease it is; every write of an outcome is fenced by it
    attempt_count   smallint NOT NULL DEFAULT 0,
    attempts_before smallint NOT NULL DEFAULT 0 -- attempts that do not count against the retry policy's present round
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000);
CREATE INDEX queue_lane ON queue (lane_id, due_at);

CREATE SEQUENCE lease_tokens CACHE 32;

-- The lines that deliveries wait in. A lane's due_at says when it is next worth looking at; everything that makes a
-- subscription wait is a later due_at.
--
-- There is no unique index on id, on purpose. A busy lane gets hundreds of versions a second, and while any session
-- holds an old snapshot none of them can be removed: every look-up by id, and every new version's own check for
-- duplicates, would wade through all of them. Behind (id, revision) the newest version is found first. That an id
-- stands only once is by construction: it is the id of a new subscription, or made under a lock by arm_lane().
CREATE TABLE lanes (
    id              uuid NOT NULL,              -- for a plain subscription, the subscription's own id
    revision        bigint NOT NULL DEFAULT 0,  -- counted up by every hot statement that writes the row
    subscription_id uuid NOT NULL,
    due_at          timestamptz NOT NULL DEFAULT 'infinity',
    hold_until      timestamptz NOT NULL DEFAULT '-infinity', -- not to be served before: a pause (infinity), Retry-After
    scheduled_at    timestamptz NOT NULL DEFAULT 'infinity',  -- no later than the earliest row that waits for a later time
    floor_at        timestamptz NOT NULL DEFAULT '-infinity', -- rows due before it have been taken, less a margin
    swept_at        timestamptz NOT NULL DEFAULT '-infinity', -- the last look from the very beginning
    drained_at      timestamptz,                -- since when every visit has left it empty; NULL after new work
    lease_ms        integer NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000);
CREATE INDEX lanes_newest ON lanes (id, revision);
CREATE INDEX lanes_due ON lanes (due_at);
