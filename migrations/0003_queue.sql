-- The queue: unfinished deliveries, and the lanes in which they wait. The functions that work on them are in
-- core/sql/functions.

-- Unfinished deliveries only: this is the list of work, and its size is the backlog. Autovacuum is told to come early
-- and to run at full speed; workers also vacuum the table themselves every few seconds.
CREATE TABLE queue (
    delivery_id     uuid PRIMARY KEY,
    lane_id         uuid NOT NULL,
    event_id        uuid NOT NULL,
    due_at          timestamptz NOT NULL,        -- when it is due; while leased, when the lease expires
    lease_token     bigint,                      -- names the lease; an outcome is written only with the present token
    attempt_count   integer NOT NULL DEFAULT 0,
    attempts_before integer NOT NULL DEFAULT 0,  -- attempts that do not count against the retry policy's present round
    releases        integer NOT NULL DEFAULT 0,  -- how often it was given back through a fault of ours
    ordering_key    text,                        -- in an ordered lane, its line; NULL means that it waits for no other
    sequence        bigint                       -- its place in that line, in the order of acceptance
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000);
CREATE INDEX queue_lane ON queue (lane_id, due_at);
CREATE INDEX queue_order ON queue (lane_id, ordering_key, sequence) WHERE ordering_key IS NOT NULL;
CREATE INDEX queue_leased ON queue (lane_id, ordering_key, sequence)
    WHERE ordering_key IS NOT NULL AND lease_token IS NOT NULL;

-- Places in the lines of ordered lanes. Sessions keep none in store, so that they follow the order of acceptance.
CREATE SEQUENCE queue_places CACHE 1;

-- The lanes in which deliveries wait. due_at says when a lane is next worth a visit; everything that makes a lane wait
-- sets a later due_at. Each reason for waiting has a column of its own, so that the end of one does not end another.
-- held_until is the latest of these times, and due_at is never earlier.
--
-- There is no unique index on id, on purpose. A busy lane gets hundreds of versions a second, and none of them can be
-- removed while any session holds an old snapshot. Every look-up by id, and every check for duplicates, would have to
-- read all of them. The index on (id, revision) finds the newest version first. An id occurs only once even so: it
-- belongs to a new subscription, or arm_lane() has created the lane under a lock.
CREATE TABLE lanes (
    id              uuid NOT NULL,               -- for a plain subscription, the subscription's own id
    revision        bigint NOT NULL DEFAULT 0,   -- counted up by every hot statement that writes the row
    subscription_id uuid,                        -- NULL means a lane of inline deliveries
    due_at          timestamptz NOT NULL DEFAULT 'infinity',
    is_paused       boolean NOT NULL DEFAULT false, -- its subscription is paused or disabled
    rests_until     timestamptz NOT NULL DEFAULT '-infinity', -- its receiver asked to be left alone (Retry-After)
    open_until      timestamptz,                 -- its circuit lets nothing through before
    token_held_until timestamptz,                -- its rate limit allows no attempt before
    full_until      timestamptz,                 -- as many attempts are in flight as it may have
    held_until      timestamptz NOT NULL GENERATED ALWAYS AS (
                        CASE WHEN is_paused THEN 'infinity'
                             ELSE greatest(rests_until, open_until, token_held_until, full_until) END) STORED,
    scheduled_at    timestamptz NOT NULL DEFAULT 'infinity',  -- no later than the first row due later
    floor_at        timestamptz NOT NULL DEFAULT '-infinity', -- rows due before it have been taken, less a margin
    swept_at        timestamptz NOT NULL DEFAULT '-infinity', -- the last look from the very beginning
    drained_at      timestamptz,                 -- since when every visit has left it empty; NULL after new work
    lease_ms        integer NOT NULL,

    -- Copies of its subscription's settings, so that hot statements need not read the subscription. The other columns
    -- from here on are NULL, and so take no room, in a lane without limits whose receiver is well.
    rate_interval_us bigint,                     -- microseconds between two attempts; NULL means no rate limit
    rate_burst      integer,                     -- attempts at once by the rate limit
    max_in_flight   integer,                     -- NULL means no limit
    is_ordered      boolean NOT NULL DEFAULT false, -- one delivery of each ordering key is in flight at a time

    next_token_at   timestamptz,                 -- by the rate limit: when the next attempt comes if all come evenly
    has_parked      boolean,                     -- true: deliveries were parked behind others of their ordering key

    -- The circuit. What it counts is about the receiver: an attempt that failed through a fault of ours is left out.
    circuit_state   text,                        -- 'open' or 'half_open'; NULL means closed
    opened_at       timestamptz,                 -- when it opened, after it was closed
    cooldown_seconds integer,                    -- how long it stays open this time
    failures_in_a_row integer,
    window_from     timestamptz,                 -- since when the next two are counted; NULL: since the next failure
    window_attempts integer,
    window_failures integer,
    probe_successes integer,                     -- in a row, since it is half open

    -- For how long its receiver has answered with nothing but failures.
    failing_since   timestamptz,                 -- the first failed attempt since the last success
    failing_attempts integer,                    -- failed attempts since then
    failing_warned  integer                      -- the share in percent (50, 75) that a warning has told
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000);
CREATE INDEX lanes_newest ON lanes (id, revision);
CREATE INDEX lanes_due ON lanes (due_at);
-- For lists, and for the janitor. A lane whose receiver is well is not in it, so it costs that lane nothing.
CREATE INDEX lanes_troubled ON lanes (id, revision)
 WHERE circuit_state IS NOT NULL OR failing_since IS NOT NULL OR window_from IS NOT NULL;

-- Leases of lanes whose attempts at once are limited: how many a claim has given, until they are reported or expire.
CREATE TABLE lane_leases (
    lane_id     uuid NOT NULL,
    expires_at  timestamptz NOT NULL,
    lease_token bigint NOT NULL,
    count       integer NOT NULL,                -- those that are not reported yet
    is_probe    boolean NOT NULL                 -- given while the lane's circuit was half open
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX lane_leases_lane ON lane_leases (lane_id, expires_at);

-- Ordering keys whose first delivery has left the queue while others wait (see note_freed_key()): the lane's next visit
-- lets the next one of each go.
CREATE TABLE freed_keys (
    lane_id      uuid NOT NULL,
    ordering_key text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX freed_keys_lane ON freed_keys (lane_id);

-- Changes that were needed in a lane that somebody else had locked. They are noted here so that nobody waits, and a
-- worker soon makes them. The table is empty most of the time.
CREATE TABLE lanes_to_arm (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane_id         uuid NOT NULL,
    subscription_id uuid,                        -- for a lane that has to be made
    lease_ms        integer,                     -- for a lane of inline deliveries that has to be made
    moment          timestamptz NOT NULL,        -- when it has to be due
    is_scheduled    boolean NOT NULL,
    rests_until     timestamptz NOT NULL DEFAULT '-infinity'
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- Dead letters of which the operator is still to be told, summed up by subscription and batch of outcomes. Rows are
-- only inserted, so that no outcome waits for another; a worker soon turns all of one subscription into one event, and
-- removes them. The table is empty most of the time.
CREATE TABLE dead_letter_notices (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id       text NOT NULL,
    subscription_id uuid,                        -- NULL means inline deliveries of the tenant
    count           integer NOT NULL,
    sample          uuid[] NOT NULL,             -- the first deliveries, at least one and at most 10
    first_at        timestamptz NOT NULL         -- when the first of them became a dead letter
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- What metrics show of the database. One worker counts from time to time, for all of them, with measure_queue(): no
-- count goes beyond 100,000.
CREATE TABLE queue_size (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    due          bigint NOT NULL DEFAULT 0,      -- due, and nothing holds their lane
    scheduled    bigint NOT NULL DEFAULT 0,      -- due later, or after another of their ordering key
    held         bigint NOT NULL DEFAULT 0,      -- due, but their lane is held
    in_flight    bigint NOT NULL DEFAULT 0,      -- leased
    dead_letters bigint NOT NULL DEFAULT 0,      -- those that nobody has resolved
    circuits_open bigint NOT NULL DEFAULT 0,
    circuits_half_open bigint NOT NULL DEFAULT 0,
    subscriptions jsonb NOT NULL DEFAULT '{}',   -- {"active": {"ok": 3, "failing": 1}}, by state and health
    partitions_until timestamptz,                -- there are partitions before it
    measured_at  timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO queue_size DEFAULT VALUES;

-- The arguments of the hot functions, an array of each type. A type is never changed once it has been released, because
-- an older binary would send too few attributes. A new attribute needs a new type, and a new function beside the old
-- one.

CREATE TYPE new_event AS (
    id               uuid,
    tenant_id        text,
    event_type       text,
    posted_to        uuid,                       -- the subscription it was posted to, where it was posted to one
    is_inline        boolean,
    content_type     text,
    content_encoding text,                       -- NULL where the payload was not packed
    payload          bytea,
    metadata         jsonb,
    external_id      text,
    ordering_key     text,
    deliver_at       timestamptz,
    expires_at       timestamptz,
    traceparent      text,
    tracestate       text
);

CREATE TYPE event_key AS (
    event_id    uuid,                            -- the new event that it came with
    tenant_id   text,
    key         text,
    fingerprint bytea,                           -- SHA-256 of the request
    answer      bytea                            -- the answer, also to a repeated request
);

CREATE TYPE new_delivery AS (
    id              uuid,
    event_id        uuid,
    tenant_id       text,
    subscription_id uuid,                        -- NULL for an inline delivery
    lane_id         uuid,
    lease_ms        integer,                     -- how long a lease lasts in its lane; NULL where the lane's
                                                 -- subscription says it
    due_at          timestamptz,                 -- NULL means now
    replay_of       uuid                         -- the delivery that it replays, if any
);

CREATE TYPE outcome AS (
    delivery_id        uuid,
    lease_token        bigint,                   -- the lease under which it was attempted; another changes nothing
    subscription_id    uuid,                     -- NULL for an inline delivery
    status             delivery_status,          -- what becomes of it; 'pending' puts it back, due after delay_ms
    delay_ms           bigint,
    rest_ms            bigint,                   -- not NULL: its whole lane rests that long (Retry-After)
    is_excused         boolean,                  -- true: the attempt does not count against the retry policy
    is_awaited         boolean,                  -- true: others of its lane wait for it, as claim() said
    number             integer,                  -- of the attempt
    started_at         timestamptz,              -- NULL: no attempt was made; none is logged, its number is given back
    duration_ms        integer,
    status_code        smallint,
    error_kind         text,
    error              text,
    response_headers   jsonb,
    response_body      bytea,
    response_truncated boolean,
    dns_us             integer,                  -- of the attempt's phases: see the table attempts
    connect_us         integer,
    tls_us             integer,
    first_byte_us      integer,
    total_us           integer,
    peer_address       text,
    is_reused          boolean
);
