-- A portal link is an API key that comes by a URL: it has a tenant and an end. Lists of API keys leave such keys out.
ALTER TABLE api_keys ADD COLUMN kind text NOT NULL DEFAULT 'key';   -- or 'portal_link'
CREATE INDEX api_keys_listed ON api_keys (id) WHERE kind = 'key';
CREATE INDEX api_keys_portal_links ON api_keys (tenant_id, id) WHERE kind = 'portal_link';

-- Nobody can have tried a key before it was made, so only its revocation is announced: an announcement ends the live
-- views of all, who then come back.
DROP TRIGGER api_keys_announce ON api_keys;
CREATE TRIGGER api_keys_announce AFTER UPDATE OF revoked_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION announce_change();
