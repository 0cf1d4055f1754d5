-- Logs leases whose workers never reported back, each as an attempt whose outcome nobody knows.
CREATE OR REPLACE FUNCTION log_lost_leases(delivery_ids uuid[], lease_ms integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO attempts (delivery_id, number, started_at, error_kind, error)
    SELECT q.delivery_id, q.attempt_count, q.due_at - make_interval(secs => log_lost_leases.lease_ms / 1000.0),
           'lease_lost', 'the worker that made this attempt never reported its outcome'
      FROM queue q WHERE q.delivery_id = ANY (delivery_ids)
        ON CONFLICT DO NOTHING;
EXCEPTION WHEN check_violation THEN
    NULL;  -- The partition of its day is gone. That must not stop everybody's claims.
END $$;
