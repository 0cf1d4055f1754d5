-- How many deliveries a visit may lease in a lane with limits, and the lane as it is then. A lane whose circuit was
-- open becomes half open. Without room, the lane is held until there may be some. With a rate limit (GCRA: every
-- attempt moves next_token_at by one interval, and attempts may run ahead of it by the burst), the attempt number n of
-- the visit, from 0, comes wait_us + n * rate_interval_us microseconds from now. Only claim() calls this, with its
-- settings.
CREATE OR REPLACE FUNCTION lane_room(
    before lanes, quantum integer, t timestamptz,
    OUT lane lanes, OUT room integer, OUT probes integer, OUT leases_left integer, OUT first_expiry timestamptz,
    OUT wait_us bigint
) LANGUAGE plpgsql AS $$
DECLARE
    leased  bigint;
    probing bigint;
    first   timestamptz;
    step    interval;
    ahead   interval;
BEGIN
    lane := before;
    lane.full_until := NULL;
    lane.token_held_until := NULL;
    room := quantum;
    IF lane.circuit_state = 'open' THEN
        lane.circuit_state := 'half_open';
        lane.probe_successes := 0;
        lane.open_until := NULL;
        PERFORM circuit_event('half_open', lane, 'the cooldown is over, and the receiver is tried again');
    END IF;
    IF lane.circuit_state = 'half_open' THEN
        probes := coalesce((lane_circuit(lane) ->> 'probes')::integer, quantum);
    END IF;
    IF probes IS NOT NULL OR lane.max_in_flight IS NOT NULL THEN
        -- Their reports may just be coming after all; a claim does not wait for them.
        DELETE FROM lane_leases x
         WHERE x.ctid = ANY (ARRAY(SELECT y.ctid FROM lane_leases y
                                    WHERE y.lane_id = lane.id AND y.expires_at <= t FOR UPDATE SKIP LOCKED));
        SELECT coalesce(sum(x.count), 0), coalesce(sum(x.count) FILTER (WHERE x.is_probe), 0), min(x.expires_at)
          INTO leased, probing, first_expiry
          FROM lane_leases x WHERE x.lane_id = lane.id AND x.expires_at > t;
        leases_left := least(lane.max_in_flight - leased, probes - probing);
        room := least(room, leases_left);
        IF room <= 0 THEN
            room := 0;
            lane.full_until := coalesce(first_expiry, t + lane_margin());
            RETURN;
        END IF;
    END IF;
    IF lane.rate_interval_us IS NOT NULL THEN
        step := make_interval(secs => lane.rate_interval_us / 1e6);
        ahead := tokens_ahead(lane.rate_interval_us);
        first := greatest(lane.next_token_at, t + token_jitter()) - step * (lane.rate_burst - 1);
        wait_us := extract(epoch FROM first - t) * 1e6;
        IF first > t + ahead THEN
            room := 0;
            lane.token_held_until := first - ahead / 2;
        ELSE
            room := least(room, 1 + floor(extract(epoch FROM t + ahead - first) / extract(epoch FROM step)));
        END IF;
    END IF;
END $$;
