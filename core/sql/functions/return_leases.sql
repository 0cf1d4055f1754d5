-- Takes reported deliveries off the leases of a lane whose attempts at once are limited; the array has the lease token
-- of each. Returns those tokens that were given to probes.
CREATE OR REPLACE FUNCTION return_leases(lane_id uuid, tokens bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    probes bigint[] := '{}';
    lease  record;
BEGIN
    FOR lease IN
        UPDATE lane_leases x SET count = x.count - (SELECT count(*) FROM unnest(tokens) i WHERE i = x.lease_token)
         WHERE x.ctid = ANY (ARRAY(SELECT y.ctid FROM lane_leases y
                                    WHERE y.lane_id = return_leases.lane_id AND y.lease_token = ANY (tokens)
                                    ORDER BY y.lease_token FOR UPDATE))
        RETURNING x.lease_token, x.count, x.is_probe
    LOOP
        IF lease.is_probe THEN probes := probes || lease.lease_token; END IF;
    END LOOP;
    DELETE FROM lane_leases x
     WHERE x.lane_id = return_leases.lane_id AND x.lease_token = ANY (tokens) AND x.count <= 0;
    RETURN probes;
END $$;
