-- The part of add_stats() that adds sums of minutes to those that are there. Each array has as many places as
-- core/src/tally has classes and buckets.
CREATE OR REPLACE FUNCTION add_sums(sums stats_sum[], slot smallint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stats_minute AS s
           (tenant_id, subscription_id, minute, slot, outcomes, durations, latencies, waits, bytes)
    SELECT i.tenant_id, i.subscription_id, i.minute, add_sums.slot, i.outcomes, i.durations, i.latencies, i.waits,
           i.bytes
      FROM unnest(sums) i
        ON CONFLICT ON CONSTRAINT stats_minute_pkey DO UPDATE
       SET bytes = s.bytes + EXCLUDED.bytes,
           outcomes = ARRAY[
             s.outcomes[1] + EXCLUDED.outcomes[1], s.outcomes[2] + EXCLUDED.outcomes[2],
             s.outcomes[3] + EXCLUDED.outcomes[3], s.outcomes[4] + EXCLUDED.outcomes[4],
             s.outcomes[5] + EXCLUDED.outcomes[5], s.outcomes[6] + EXCLUDED.outcomes[6],
             s.outcomes[7] + EXCLUDED.outcomes[7], s.outcomes[8] + EXCLUDED.outcomes[8],
             s.outcomes[9] + EXCLUDED.outcomes[9], s.outcomes[10] + EXCLUDED.outcomes[10],
             s.outcomes[11] + EXCLUDED.outcomes[11], s.outcomes[12] + EXCLUDED.outcomes[12],
             s.outcomes[13] + EXCLUDED.outcomes[13], s.outcomes[14] + EXCLUDED.outcomes[14],
             s.outcomes[15] + EXCLUDED.outcomes[15], s.outcomes[16] + EXCLUDED.outcomes[16],
             s.outcomes[17] + EXCLUDED.outcomes[17], s.outcomes[18] + EXCLUDED.outcomes[18],
             s.outcomes[19] + EXCLUDED.outcomes[19], s.outcomes[20] + EXCLUDED.outcomes[20]],
           durations = ARRAY[
             s.durations[1] + EXCLUDED.durations[1], s.durations[2] + EXCLUDED.durations[2],
             s.durations[3] + EXCLUDED.durations[3], s.durations[4] + EXCLUDED.durations[4],
             s.durations[5] + EXCLUDED.durations[5], s.durations[6] + EXCLUDED.durations[6],
             s.durations[7] + EXCLUDED.durations[7], s.durations[8] + EXCLUDED.durations[8],
             s.durations[9] + EXCLUDED.durations[9], s.durations[10] + EXCLUDED.durations[10],
             s.durations[11] + EXCLUDED.durations[11], s.durations[12] + EXCLUDED.durations[12],
             s.durations[13] + EXCLUDED.durations[13], s.durations[14] + EXCLUDED.durations[14],
             s.durations[15] + EXCLUDED.durations[15], s.durations[16] + EXCLUDED.durations[16]],
           latencies = ARRAY[
             s.latencies[1] + EXCLUDED.latencies[1], s.latencies[2] + EXCLUDED.latencies[2],
             s.latencies[3] + EXCLUDED.latencies[3], s.latencies[4] + EXCLUDED.latencies[4],
             s.latencies[5] + EXCLUDED.latencies[5], s.latencies[6] + EXCLUDED.latencies[6],
             s.latencies[7] + EXCLUDED.latencies[7], s.latencies[8] + EXCLUDED.latencies[8],
             s.latencies[9] + EXCLUDED.latencies[9], s.latencies[10] + EXCLUDED.latencies[10],
             s.latencies[11] + EXCLUDED.latencies[11], s.latencies[12] + EXCLUDED.latencies[12],
             s.latencies[13] + EXCLUDED.latencies[13], s.latencies[14] + EXCLUDED.latencies[14],
             s.latencies[15] + EXCLUDED.latencies[15], s.latencies[16] + EXCLUDED.latencies[16],
             s.latencies[17] + EXCLUDED.latencies[17]],
           waits = ARRAY[
             s.waits[1] + EXCLUDED.waits[1], s.waits[2] + EXCLUDED.waits[2], s.waits[3] + EXCLUDED.waits[3],
             s.waits[4] + EXCLUDED.waits[4], s.waits[5] + EXCLUDED.waits[5], s.waits[6] + EXCLUDED.waits[6],
             s.waits[7] + EXCLUDED.waits[7], s.waits[8] + EXCLUDED.waits[8]];
END $$;
