-- Locks the newest version of a lane and returns its ctid. If somebody else has it locked, waits for `patience`, and
-- then returns NULL. Returns NULL also if there is no such lane.
CREATE OR REPLACE FUNCTION lock_lane(lane_id uuid, patience interval) RETURNS tid LANGUAGE plpgsql AS $$
DECLARE
    place tid;
    before constant text := current_setting('lock_timeout');
BEGIN
    SELECT l.ctid INTO place FROM lanes l
     WHERE l.id = lane_id ORDER BY l.revision DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF FOUND OR patience <= interval '0' OR NOT EXISTS (SELECT FROM lanes l WHERE l.id = lane_id) THEN
        RETURN place;
    END IF;
    BEGIN
        PERFORM set_config('lock_timeout', (extract(epoch FROM patience) * 1000)::integer::text, true);
        SELECT l.ctid INTO place FROM lanes l WHERE l.id = lane_id ORDER BY l.revision DESC LIMIT 1 FOR UPDATE;
        PERFORM set_config('lock_timeout', before, true);
    EXCEPTION WHEN lock_not_available THEN
        RETURN NULL;
    END;
    RETURN place;
END $$;
