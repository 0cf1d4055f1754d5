-- Whatever removes the first delivery of a line in an ordered lane (its end, a cancel, an expiry), the next one of that
-- line must go: this notes the key, in the same transaction, where others of it wait. The caller makes the lane due,
-- and its next visit reads the note.
--
-- A delivery that is not seen here, because it was committed a moment later, is not lost: claims park no delivery
-- behind one that somebody is removing (see lock_heads()).
--
-- The key's first delivery is looked for, and not just any one: without an order, the planner may read the whole lane
-- for a key that nobody has, because most of what it knows of may be one long line.
CREATE OR REPLACE FUNCTION note_freed_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM queue q
      WHERE q.lane_id = OLD.lane_id AND q.ordering_key = OLD.ordering_key
      ORDER BY q.sequence LIMIT 1;
    IF FOUND THEN
        INSERT INTO freed_keys (lane_id, ordering_key) VALUES (OLD.lane_id, OLD.ordering_key);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER queue_note_freed_key AFTER DELETE ON queue
    FOR EACH ROW WHEN (OLD.ordering_key IS NOT NULL) EXECUTE FUNCTION note_freed_key();
