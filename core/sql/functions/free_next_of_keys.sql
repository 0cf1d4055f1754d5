-- Makes the first delivery due of each ordering key whose previous first one has left the queue (freed_keys), at most a
-- thousand. The caller has the lane locked. Returns whether all notes of the lane were handled; it waits for nobody, so
-- the note of a delivery that somebody else has locked stays.
CREATE OR REPLACE FUNCTION free_next_of_keys(lane_id uuid, t timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    notes_max constant integer := 1000;
    note      record;
    head      record;
    handled   integer := 0;
    seen      integer := 0;
BEGIN
    FOR note IN
        SELECT f.ctid AS tid, f.ordering_key FROM freed_keys f
         WHERE f.lane_id = free_next_of_keys.lane_id LIMIT notes_max FOR UPDATE SKIP LOCKED
    LOOP
        seen := seen + 1;
        SELECT q.ctid AS tid, q.due_at INTO head FROM queue q
         WHERE q.lane_id = free_next_of_keys.lane_id AND q.ordering_key = note.ordering_key
         ORDER BY q.sequence LIMIT 1;
        IF head.due_at = 'infinity' THEN
            PERFORM FROM queue q WHERE q.ctid = head.tid FOR UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND;
            UPDATE queue q SET due_at = t WHERE q.ctid = head.tid;
        END IF;
        DELETE FROM freed_keys f WHERE f.ctid = note.tid;
        handled := handled + 1;
    END LOOP;
    RETURN seen = handled AND seen < notes_max;
END $$;
