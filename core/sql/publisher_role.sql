-- Creates the role {schema}_publisher, which may call publish() and do nothing else. This runs at each start, because a
-- role belongs to the whole server and is not part of a dump of the database.
DO $$
DECLARE
    publish constant text := 'publish(text, jsonb, text, jsonb, text, text, timestamptz, timestamptz, text, text)';
    role    constant text := current_schema() || '_publisher';
BEGIN
    IF to_regrole(quote_ident(role)) IS NULL THEN
        -- Another process may be creating the role at this moment, or we may lack the right to create it.
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
