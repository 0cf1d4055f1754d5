-- How large the backlog was: a row for each minute, with the largest numbers that measure_queue() has counted in it.
-- The dashboard draws it. Rows are kept for some days (core/src/upkeep/backlog.rs).
CREATE TABLE backlog_minute (
    minute    timestamptz PRIMARY KEY,
    due       bigint NOT NULL,
    scheduled bigint NOT NULL,
    held      bigint NOT NULL,
    in_flight bigint NOT NULL
);

-- Who fails at this moment is asked for all tenants at once: that reads the last pages, and not a whole day.
CREATE INDEX stats_causes_time ON stats_causes USING brin (moment) WITH (pages_per_range = 16, autosummarize = on);

-- The settings with which a process was started, by their names; secrets are not among the values.
ALTER TABLE processes ADD COLUMN settings jsonb;
