-- Returns a token for the leases of a claim. It is drawn by chance: a sequence goes back when a crash of the database
-- undoes claims that had not reached the disk, and then the worker of such a claim could report under the lease of
-- another. (The 13th digit of a random UUID is always the same.)
CREATE OR REPLACE FUNCTION new_lease_token() RETURNS bigint LANGUAGE plpgsql VOLATILE PARALLEL SAFE AS $$
DECLARE
    digits constant text := replace(gen_random_uuid()::text, '-', '');
BEGIN
    RETURN ('x0' || substr(digits, 1, 12) || substr(digits, 14, 3))::bit(64)::bigint;
END $$;
