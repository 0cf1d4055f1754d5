-- Makes deliveries due that were parked behind others of their ordering key, at most a thousand, in a lane that is no
-- longer ordered. The caller has the lane locked. Returns whether some may be left.
CREATE OR REPLACE FUNCTION unpark(lane_id uuid, t timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE queue q SET due_at = t
     WHERE q.ctid = ANY (ARRAY(
           SELECT x.ctid FROM queue x
            WHERE x.lane_id = unpark.lane_id AND x.due_at = 'infinity'
            LIMIT 1000 FOR UPDATE SKIP LOCKED));
    RETURN EXISTS (SELECT FROM queue q WHERE q.lane_id = unpark.lane_id AND q.due_at = 'infinity');
END $$;
