-- Sums up the minutes of an hour once more, in place of what was summed up before. Each array has as many places as
-- core/src/tally has classes and buckets. `hour` is the hour's beginning.
CREATE OR REPLACE FUNCTION fold_stats(hour timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    after constant timestamptz := hour + interval '1 hour';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext(current_schema() || '.stats'));
    DELETE FROM stats_hour s WHERE s.hour = fold_stats.hour;
    DELETE FROM accepted_hour a WHERE a.hour = fold_stats.hour;
    INSERT INTO stats_hour (tenant_id, subscription_id, hour, outcomes, durations, latencies, waits, bytes)
    SELECT tenant_id, subscription_id, fold_stats.hour,
           ARRAY[
             sum(outcomes[1]), sum(outcomes[2]), sum(outcomes[3]), sum(outcomes[4]), sum(outcomes[5]),
             sum(outcomes[6]), sum(outcomes[7]), sum(outcomes[8]), sum(outcomes[9]), sum(outcomes[10]),
             sum(outcomes[11]), sum(outcomes[12]), sum(outcomes[13]), sum(outcomes[14]), sum(outcomes[15]),
             sum(outcomes[16]), sum(outcomes[17]), sum(outcomes[18]), sum(outcomes[19]), sum(outcomes[20])],
           ARRAY[
             sum(durations[1]), sum(durations[2]), sum(durations[3]), sum(durations[4]), sum(durations[5]),
             sum(durations[6]), sum(durations[7]), sum(durations[8]), sum(durations[9]), sum(durations[10]),
             sum(durations[11]), sum(durations[12]), sum(durations[13]), sum(durations[14]),
             sum(durations[15]), sum(durations[16])],
           ARRAY[
             sum(latencies[1]), sum(latencies[2]), sum(latencies[3]), sum(latencies[4]), sum(latencies[5]),
             sum(latencies[6]), sum(latencies[7]), sum(latencies[8]), sum(latencies[9]), sum(latencies[10]),
             sum(latencies[11]), sum(latencies[12]), sum(latencies[13]), sum(latencies[14]),
             sum(latencies[15]), sum(latencies[16]), sum(latencies[17])],
           ARRAY[
             sum(waits[1]), sum(waits[2]), sum(waits[3]), sum(waits[4]), sum(waits[5]), sum(waits[6]),
             sum(waits[7]), sum(waits[8])],
           sum(bytes)
      FROM stats_minute WHERE minute >= fold_stats.hour AND minute < after
     GROUP BY tenant_id, subscription_id;
    INSERT INTO accepted_hour (tenant_id, event_type, hour, events, bytes)
    SELECT tenant_id, event_type, fold_stats.hour, sum(events), sum(bytes)
      FROM accepted_minute WHERE minute >= fold_stats.hour AND minute < after
     GROUP BY tenant_id, event_type;
END $$;
