-- The role {schema}_publisher, which may call publish() and do nothing else. Run at each start: a role belongs to the
-- whole server, so a dump of the database does not bring it along.
DO $$
DECLARE
    publish constant text := 'publish(text, jsonb, text, jsonb, text, text, timestamptz, timestamptz)';
    role    constant text := current_schema() || '_publisher';
BEGIN
    IF to_regrole(quote_ident(role)) IS NULL THEN
        -- Another process may be making it at this moment, or it may not be ours to make.
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'the role % was not created; grant the use of publish() by hand', role;
                RETURN;
        END;
    END IF;
    IF NOT has_function_privilege(role, publish, 'EXECUTE')
       OR NOT has_schema_privilege(role, current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', publish, role);
    END IF;
END $$;
