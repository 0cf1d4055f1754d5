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

-- 5. In an ordered lane, nothing waits for ever: the first of each ordering key is due, or somebody has freed the key,
-- and then the lane is due. One of a key is in flight at a time. (Those that were claimed while the lane was not
-- ordered may be more.)
UNION ALL
SELECT 'first of its ordering key is parked, and nobody has freed the key', q.delivery_id
  FROM queue q JOIN lanes l ON l.id = q.lane_id
 WHERE l.is_ordered AND q.due_at = 'infinity'
   AND NOT EXISTS (SELECT FROM queue p
                    WHERE p.lane_id = q.lane_id AND p.ordering_key = q.ordering_key AND p.sequence < q.sequence)
   AND NOT EXISTS (SELECT FROM freed_keys f WHERE f.lane_id = q.lane_id AND f.ordering_key = q.ordering_key)
UNION ALL
SELECT 'parked delivery in a lane that does not know of it', q.delivery_id
  FROM queue q JOIN lanes l ON l.id = q.lane_id
 WHERE q.due_at = 'infinity' AND l.has_parked IS NULL
UNION ALL
SELECT 'ordering key was freed in a lane that is not due', l.id
  FROM lanes l
 WHERE l.is_ordered AND l.due_at > greatest(l.held_until, clock_timestamp() + lane_margin())
   AND EXISTS (SELECT FROM freed_keys f JOIN queue q ON q.lane_id = f.lane_id AND q.ordering_key = f.ordering_key
                WHERE f.lane_id = l.id AND q.due_at = 'infinity')
   AND NOT EXISTS (SELECT FROM lanes_to_arm n WHERE n.lane_id = l.id)
UNION ALL
SELECT 'two deliveries of one ordering key in flight', (array_agg(q.delivery_id))[1]
  FROM queue q JOIN lanes l ON l.id = q.lane_id
 WHERE l.is_ordered AND q.ordering_key IS NOT NULL AND q.lease_token IS NOT NULL AND q.due_at > clock_timestamp()
 GROUP BY q.lane_id, q.ordering_key HAVING count(*) > 1

-- 6. Where attempts at once are limited, every one of them is counted.
UNION ALL
SELECT 'more deliveries in flight than are counted', q.lane_id
  FROM (SELECT x.lane_id, x.lease_token, count(*) AS leased
          FROM queue x
         WHERE x.lease_token IS NOT NULL AND x.due_at > clock_timestamp()
         GROUP BY x.lane_id, x.lease_token) q
  JOIN lanes l ON l.id = q.lane_id AND l.max_in_flight IS NOT NULL
 WHERE q.leased > coalesce((SELECT sum(x.count) FROM lane_leases x
                             WHERE x.lane_id = q.lane_id AND x.lease_token = q.lease_token), 0)
UNION ALL
SELECT 'leases counted below zero', x.lane_id FROM lane_leases x WHERE x.count < 0

 LIMIT 100
