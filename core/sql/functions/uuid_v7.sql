-- A fresh UUIDv7 (RFC 9562 §5.7).
CREATE OR REPLACE FUNCTION uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT (left(r.digits, 12) || '7' || substr(r.digits, 14))::uuid
      FROM (SELECT lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
                   || substr(replace(gen_random_uuid()::text, '-', ''), 13) AS digits) r
$$;
