-- The invariants that must hold whenever no transaction is open: every row of the result is a violation.
-- It is for tests, chaos runs and `worker doctor`, because it reads whole tables.

-- 1. Every unfinished delivery has exactly one queue row, every finished one has none, and every delivery its event.
SELECT 'unfinished delivery without a queue row' AS violation, d.id AS id
  FROM deliveries d WHERE d.status = 'pending' AND NOT EXISTS (SELECT FROM queue q WHERE q.delivery_id = d.id)
UNION ALL
SELECT 'queue row without an unfinished delivery', q.delivery_id
  FROM queue q WHERE NOT EXISTS (SELECT FROM deliveries d WHERE d.id = q.delivery_id AND d.status = 'pending')
UNION ALL
SELECT 'delivery without its event', d.id
  FROM deliveries d WHERE NOT EXISTS (SELECT FROM events e WHERE e.id = d.event_id)
UNION ALL
SELECT 'dead letter that is not one', x.delivery_id
  FROM dead_letters x
 WHERE NOT EXISTS (SELECT FROM deliveries d WHERE d.id = x.delivery_id AND d.status = 'dead_letter')

-- 2. Every queue row's lane exists, and is due now or no later than the row is: later only while the lane is held, or
-- for the margin after a visit that found the row locked, or for the linger of a lane that was drained a moment ago, or
-- until a worker has handled a note in lanes_to_arm.
UNION ALL
SELECT 'queue row without a lane', q.delivery_id
  FROM queue q
 WHERE NOT EXISTS (SELECT FROM lanes l WHERE l.id = q.lane_id)
   AND NOT EXISTS (SELECT FROM lanes_to_arm n WHERE n.lane_id = q.lane_id)
UNION ALL
SELECT 'lane due later than its delivery', q.delivery_id
  FROM queue q JOIN lanes l ON l.id = q.lane_id
 WHERE l.due_at > greatest(q.due_at, l.held_until, l.drained_at + lane_linger(), clock_timestamp() + lane_margin())
   AND NOT EXISTS (SELECT FROM lanes_to_arm n WHERE n.lane_id = q.lane_id)
UNION ALL
SELECT 'lane due before its hold ends', l.id
  FROM lanes l WHERE l.due_at < l.held_until

-- 3. The number of attempts counted is the number of attempts logged, plus one for an attempt in flight.
UNION ALL
SELECT 'attempts counted and logged differ', q.delivery_id
  FROM queue q
 WHERE q.attempt_count <> (SELECT count(*) FROM attempts a WHERE a.delivery_id = q.delivery_id)
                          + (q.lease_token IS NOT NULL)::integer
UNION ALL
SELECT 'attempts are not numbered 1 to n', a.delivery_id
  FROM attempts a GROUP BY a.delivery_id HAVING max(a.number) <> count(*) OR min(a.number) <> 1
UNION ALL
SELECT 'succeeded delivery whose last attempt failed', d.id
  FROM deliveries d
 WHERE d.status = 'succeeded'
   AND NOT EXISTS (SELECT FROM attempts a
                    WHERE a.delivery_id = d.id AND a.error_kind IS NULL
                      AND a.number = (SELECT max(b.number) FROM attempts b WHERE b.delivery_id = d.id))

-- 4. No row stays leased long past the lease's expiry: its lane is due then, so a worker takes the delivery back.
UNION ALL
SELECT 'lease long expired', q.delivery_id
  FROM queue q JOIN lanes l ON l.id = q.lane_id
 WHERE q.lease_token IS NOT NULL AND l.held_until < now() AND q.due_at < now() - interval '60 seconds'

 LIMIT 100
