-- Whatever removes the first delivery of a line in an ordered lane (its end, a cancel, an expiry), the next one of that
-- line must go: this notes the key, in the same transaction, where others of it wait. The caller makes the lane due,
-- and its next visit reads the note.
--
-- A delivery that is not seen here, because it was committed a moment later, is not lost: claims park no delivery
-- behind one that somebody is removing (see lock_heads()).
CREATE OR REPLACE FUNCTION note_freed_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM queue q WHERE q.lane_id = OLD.lane_id AND q.ordering_key = OLD.ordering_key) THEN
        INSERT INTO freed_keys (lane_id, ordering_key) VALUES (OLD.lane_id, OLD.ordering_key);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER queue_note_freed_key AFTER DELETE ON queue
    FOR EACH ROW WHEN (OLD.ordering_key IS NOT NULL) EXECUTE FUNCTION note_freed_key();
