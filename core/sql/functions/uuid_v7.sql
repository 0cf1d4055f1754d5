-- A fresh UUIDv7 (RFC 9562 §5.7). The 12 bits after the milliseconds are the fraction of the millisecond, so that ids
-- follow the order in which they were made, to the microsecond.
CREATE OR REPLACE FUNCTION uuid_v7() RETURNS uuid LANGUAGE plpgsql VOLATILE PARALLEL SAFE AS $$
DECLARE
    us constant bigint := extract(epoch FROM clock_timestamp()) * 1000000;
BEGIN
    RETURN (lpad(to_hex(us / 1000), 12, '0') || '7' || lpad(to_hex(us % 1000 * 4096 / 1000), 3, '0')
            || substr(replace(gen_random_uuid()::text, '-', ''), 17))::uuid;
END $$;
