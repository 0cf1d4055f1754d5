-- Arms lanes that were locked when somebody needed to arm them (see lanes_to_arm), as far as they are free now. Returns
-- the number of notes that it handled, and wakes the workers if there were any.
CREATE OR REPLACE FUNCTION arm_noted_lanes(notes_max integer) RETURNS integer LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
    SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    note  record;
    place tid;
    done  integer := 0;
BEGIN
    FOR note IN
        SELECT n.ctid AS tid, n.* FROM lanes_to_arm n ORDER BY n.id LIMIT notes_max FOR UPDATE SKIP LOCKED
    LOOP
        place := lock_lane(note.lane_id, interval '0');
        -- It may have been full when it was noted; its next visit knows.
        UPDATE lanes l SET full_until = NULL, revision = l.revision + 1
         WHERE l.ctid = place AND l.full_until IS NOT NULL;
        CONTINUE WHEN arm_lane(note.lane_id, note.subscription_id, note.moment, note.lease_ms, note.is_scheduled,
                               interval '0') IS NULL;
        IF note.rests_until > clock_timestamp() THEN
            place := lock_lane(note.lane_id, interval '0');
            CONTINUE WHEN place IS NULL;
            UPDATE lanes l
               SET rests_until = greatest(l.rests_until, note.rests_until),
                   due_at = greatest(l.due_at, note.rests_until), revision = l.revision + 1
             WHERE l.ctid = place;
        END IF;
        DELETE FROM lanes_to_arm n WHERE n.ctid = note.tid;
        done := done + 1;
    END LOOP;
    IF done > 0 THEN
        PERFORM pg_notify(current_schema() || '_wake', 'late');
    END IF;
    RETURN done;
END $$;
