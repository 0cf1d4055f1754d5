-- Whether a row of the queue is still there and nobody is changing or removing it. It tries to lock the row, and gives
-- the lock back at once, so that nobody waits for the caller.
CREATE OR REPLACE FUNCTION is_untouched(place tid) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    is_free boolean;
BEGIN
    BEGIN
        PERFORM FROM queue q WHERE q.ctid = place FOR UPDATE SKIP LOCKED;
        is_free := FOUND;
        RAISE EXCEPTION USING ERRCODE = 'PR001', MESSAGE = 'the lock is given back';
    EXCEPTION WHEN SQLSTATE 'PR001' THEN
        RETURN is_free;
    END;
END $$;
