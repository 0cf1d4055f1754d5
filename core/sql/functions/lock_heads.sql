-- Locks the due rows of an ordered lane that are the first of their ordering keys, at most a quantum; it is to such a
-- lane what lock_due_rows() is to any other. Rows behind another of their key are parked: they are due at 'infinity'
-- until their turn comes (see note_freed_key()). The result `is_waiting` says that a row could not be parked, because
-- somebody was changing or removing the first one of its key: then the lane is worth another visit soon.
--
-- A row that was committed late may be the first of its key although one behind it is in flight already. It is neither
-- taken nor parked; `busy_until` is when the first such lease expires. No later visit may pass the rows that were left
-- like that: the first of them was due at `left_from`.
CREATE OR REPLACE FUNCTION lock_heads(
    lane lanes, is_sweep boolean, quantum integer, t timestamptz,
    OUT taken bigint, OUT last_due timestamptz, OUT tids tid[], OUT is_full boolean, OUT is_waiting boolean,
    OUT has_parked boolean, OUT left_from timestamptz, OUT busy_until timestamptz
) LANGUAGE plpgsql AS $$
DECLARE
    examined_max constant integer := quantum + 1000;
    examined     integer := 0;
    parked       tid[] := '{}';
    lost         uuid[];
    item         record;
    head         record;
    checked      tid;                -- the last head that was looked at
    is_free      boolean;            -- whether nobody was changing it
    busy         timestamptz;
BEGIN
    taken := 0;
    tids := '{}';
    is_waiting := NOT free_next_of_keys(lane.id, t);
    FOR item IN
        SELECT q.ctid AS tid, q.due_at, q.delivery_id, q.lease_token, q.ordering_key, q.sequence
          FROM queue q
         WHERE q.lane_id = lane.id
           AND q.due_at >= CASE WHEN is_sweep THEN '-infinity' ELSE lane.floor_at END
           AND q.due_at <= t
         ORDER BY q.due_at, q.sequence LIMIT examined_max
           FOR UPDATE SKIP LOCKED
    LOOP
        examined := examined + 1;
        last_due := item.due_at;
        IF item.ordering_key IS NOT NULL THEN
            SELECT q.ctid AS tid, q.sequence INTO head
              FROM queue q
             WHERE q.lane_id = lane.id AND q.ordering_key = item.ordering_key
             ORDER BY q.sequence LIMIT 1;
            IF head.sequence <> item.sequence THEN
                -- Nothing is parked behind a row that somebody is removing, or has just removed.
                IF head.tid IS DISTINCT FROM checked THEN
                    checked := head.tid;
                    is_free := is_untouched(checked);
                END IF;
                IF NOT is_free THEN
                    is_waiting := true;
                    left_from := least(left_from, item.due_at);
                ELSE
                    parked := parked || item.tid;
                    IF item.lease_token IS NOT NULL THEN lost := lost || item.delivery_id; END IF;
                END IF;
                CONTINUE;
            END IF;
            SELECT q.due_at INTO busy FROM queue q
             WHERE q.lane_id = lane.id AND q.ordering_key = item.ordering_key AND q.lease_token IS NOT NULL
               AND q.due_at > t
             ORDER BY q.sequence LIMIT 1;
            IF FOUND THEN
                busy_until := least(busy_until, busy);
                left_from := least(left_from, item.due_at);
                CONTINUE;
            END IF;
        END IF;
        taken := taken + 1;
        tids := tids || item.tid;
        IF item.lease_token IS NOT NULL THEN lost := lost || item.delivery_id; END IF;
        EXIT WHEN taken = quantum;
    END LOOP;
    IF lost IS NOT NULL THEN PERFORM log_lost_leases(lost, lane.lease_ms); END IF;
    is_full := taken = quantum OR examined = examined_max;
    has_parked := parked <> '{}';
    UPDATE queue q SET due_at = 'infinity', lease_token = NULL WHERE q.ctid = ANY (parked);
END $$;
