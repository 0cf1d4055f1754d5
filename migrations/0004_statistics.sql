-- Statistics: sums over minutes and hours of what was accepted and of what came of it, and the processes that are
-- running. Workers and apis add up in memory and write now and then (core/src/tally.rs), so a killed process loses the
-- last seconds of its sums. They can be counted again from attempts and events, and nothing else depends on them.

-- Sums of one minute, one partition for each day. There are rows of single subscriptions, rows of whole tenants, and
-- one of all tenants, so that no question has to add up many subscriptions. The arrays have a place for each class and
-- each bucket, in the order of core/src/tally: places are only ever added, at the end.
CREATE TABLE stats_minute (
    tenant_id       text NOT NULL,               -- '' means all tenants
    subscription_id uuid NOT NULL,               -- all zeros: the whole tenant; all ones: its inline deliveries
    minute          timestamptz NOT NULL,        -- in which the attempts began
    slot            smallint NOT NULL,           -- of the process that has counted, so that hardly two wait for one row
    outcomes        integer[] NOT NULL,          -- by class: of attempts, and of deliveries that ended without success
    durations       integer[] NOT NULL,          -- attempts by how long they took
    latencies       integer[] NOT NULL,          -- successes by the time since their deliveries were due for the first
                                                 -- time
    waits           integer[] NOT NULL,          -- first attempts by the time for which their deliveries had been due
    bytes           bigint NOT NULL,             -- of payloads in attempts that a receiver answered
    PRIMARY KEY (tenant_id, subscription_id, minute, slot)
) PARTITION BY RANGE (minute);
-- Folding an hour reads the few pages of that hour.
CREATE INDEX stats_minute_time ON stats_minute USING brin (minute) WITH (pages_per_range = 16, autosummarize = on);

-- The same of one hour and all slots, one partition for each month.
CREATE TABLE stats_hour (
    tenant_id       text NOT NULL,
    subscription_id uuid NOT NULL,
    hour            timestamptz NOT NULL,
    outcomes        bigint[] NOT NULL,
    durations       bigint[] NOT NULL,
    latencies       bigint[] NOT NULL,
    waits           bigint[] NOT NULL,
    bytes           bigint NOT NULL,
    PRIMARY KEY (tenant_id, subscription_id, hour)
) PARTITION BY RANGE (hour);
CREATE INDEX stats_hour_time ON stats_hour USING brin (hour) WITH (pages_per_range = 16, autosummarize = on);

-- Accepted events of one minute, one partition for each day.
CREATE TABLE accepted_minute (
    tenant_id  text NOT NULL,                    -- '' means all tenants
    event_type text NOT NULL,                    -- '' means all types; '*' means types beyond the bound
    minute     timestamptz NOT NULL,
    slot       smallint NOT NULL,
    events     integer NOT NULL,
    bytes      bigint NOT NULL,                  -- of payloads
    PRIMARY KEY (tenant_id, event_type, minute, slot)
) PARTITION BY RANGE (minute);
CREATE INDEX accepted_minute_time ON accepted_minute
 USING brin (minute) WITH (pages_per_range = 16, autosummarize = on);

-- The same of one hour, one partition for each month.
CREATE TABLE accepted_hour (
    tenant_id  text NOT NULL,
    event_type text NOT NULL,
    hour       timestamptz NOT NULL,
    events     bigint NOT NULL,
    bytes      bigint NOT NULL,
    PRIMARY KEY (tenant_id, event_type, hour)
) PARTITION BY RANGE (hour);
CREATE INDEX accepted_hour_time ON accepted_hour USING brin (hour) WITH (pages_per_range = 16, autosummarize = on);

-- Why attempts failed, by subscription and class, in spans of ten minutes; one partition for each day. Only a
-- subscription whose attempts fail has rows here.
CREATE TABLE stats_causes (
    tenant_id       text NOT NULL,
    subscription_id uuid NOT NULL,               -- all ones: inline deliveries of the tenant
    moment          timestamptz NOT NULL,        -- the beginning of the ten minutes
    cause           text NOT NULL,               -- the word of a class
    slot            smallint NOT NULL,
    count           integer NOT NULL,
    first_at        timestamptz NOT NULL,        -- when the first and the last of these attempts began
    last_at         timestamptz NOT NULL,
    delivery_id     uuid NOT NULL,               -- of the last attempt
    status_code     smallint,                    -- of the last attempt; NULL where no answer arrived
    PRIMARY KEY (tenant_id, subscription_id, moment, cause, slot)
) PARTITION BY RANGE (moment);

-- How far minutes have been folded into hours.
CREATE TABLE stats_folding (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    closed_until timestamptz NOT NULL DEFAULT date_trunc('hour', clock_timestamp()), -- sums before it come late
    folded_until timestamptz NOT NULL DEFAULT date_trunc('hour', clock_timestamp())  -- hours before it can be read
);
INSERT INTO stats_folding DEFAULT VALUES;

-- Hours that got sums after they were closed, so that they have to be folded again. An hour may occur many times: a row
-- is seen exactly when the sums are seen that it came with.
CREATE TABLE stats_late_hours (hour timestamptz NOT NULL);

-- The arguments of add_stats(), an array of each type.
CREATE TYPE stats_sum AS (
    tenant_id       text,
    subscription_id uuid,
    minute          timestamptz,
    outcomes        integer[],
    durations       integer[],
    latencies       integer[],
    waits           integer[],
    bytes           bigint
);

CREATE TYPE accepted_sum AS (
    tenant_id  text,
    event_type text,
    minute     timestamptz,
    events     integer,
    bytes      bigint
);

CREATE TYPE cause_sum AS (
    tenant_id       text,
    subscription_id uuid,
    moment          timestamptz,
    cause           text,
    count           integer,
    first_at        timestamptz,
    last_at         timestamptz,
    delivery_id     uuid,
    status_code     smallint
);

-- The processes that are running, and those that were a short while ago. After a crash of the database every process
-- writes its row again, so the table need not survive one.
CREATE UNLOGGED TABLE processes (
    id                uuid PRIMARY KEY,
    kind              text NOT NULL,             -- 'api' or 'worker'
    host              text NOT NULL,
    version           text NOT NULL,
    started_at        timestamptz NOT NULL,
    seen_at           timestamptz NOT NULL,
    places_used       integer,                   -- NULL for an api, which has no places
    places_free       integer,
    claims_per_second double precision,          -- deliveries, since the row was written before
    last_error        text,
    last_error_at     timestamptz
) WITH (fillfactor = 50);
