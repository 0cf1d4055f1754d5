-- Until when a lane is held, as its columns say; held_until is the same for the stored row.
CREATE OR REPLACE FUNCTION lane_hold(lane lanes) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN lane.is_paused THEN 'infinity'
                ELSE greatest(lane.rests_until, lane.open_until, lane.token_held_until, lane.full_until) END
$$;
