-- The smallest UUID with the first 48 bits of that millisecond: no UUIDv7 of that moment or later is smaller. (Only
-- without a time zone is the extraction immutable, and only then can the planner inline this.)
CREATE OR REPLACE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT rpad(lpad(to_hex(floor(extract(epoch FROM moment AT TIME ZONE 'UTC') * 1000)::bigint), 12, '0'),
                32, '0')::uuid
$$;
