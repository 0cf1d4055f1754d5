-- The ordering key with which an event was posted, or '' where it has none: events without a key are one line. It is a
-- function of its own, so that only deliveries to ordered lanes pay for the look into the partitions of events.
CREATE OR REPLACE FUNCTION event_ordering_key(event_id uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((SELECT e.ordering_key FROM events e WHERE e.id = event_ordering_key.event_id), '');
END $$;
