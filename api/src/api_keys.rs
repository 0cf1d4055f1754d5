//! `/api-keys`: keys say who may do what, for which tenant.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Header, Path, Query},
    payload::Json,
    types::ToJSON,
};
use postrider_core::{
    access::{
        api_key::{self, ApiKey, KeyKind, NewApiKey, Scope},
        ingest_limit::RateLimit,
    },
    announce::changes::Change,
    event::idempotency::{self, Creation},
    id::KeyId,
    name::Name,
    validation::{Problems, moment},
};
use serde::Deserialize;

use crate::{
    access::auth::{Admin, Key},
    app::{App, Tag},
    serve::{
        body::{Input, JsonBody},
        idempotency::stored_answer,
        list::{List, Wanted},
        problem::ApiError,
    },
};

/// The routes of `/api-keys`.
pub struct ApiKeysApi(pub App);

/// What an API key should be.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct ApiKeyInput {
    /// What the key is called by people, such as `Order service`; at most 200 characters.
    name: String,
    /// What the key is good for; at least one of `read`, `manage` (reading and changing), `ingest` (posting events and
    /// inline deliveries) and `admin` (everything).
    scopes: Vec<String>,
    /// The only tenant that the key reaches, such as `acme`; at most 64 characters. It reaches every tenant where
    /// absent, if the key that creates it does.
    tenant_id: Option<String>,
    /// From this time on the key opens nothing any more, such as `2027-01-31T00:00:00Z`; never where absent (RFC 3339).
    expires_at: Option<DateTime<Utc>>,
    /// How many requests a second may post events with the key, and as many at once; 1 to 100000. There is no limit
    /// where absent. Every api process counts by itself.
    rate_limit_per_second: Option<u32>,
}

impl Input for ApiKeyInput {}

/// An API key. Only the answer that creates it shows the key itself.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "ApiKey")]
pub struct ApiKeyView {
    /// The key's id, such as `key_0198c0de2f3a7b1c9d4e5f60718293a4`.
    id: String,
    /// What the key is called by people.
    name: String,
    /// The key itself, `pr_…`; only in the answer that created it.
    key: Option<String>,
    /// The first characters of the key, by which people recognize it.
    hint: String,
    /// What the key is good for, such as `["read", "ingest"]`.
    scopes: Vec<String>,
    /// The only tenant that the key reaches; absent where it reaches every tenant.
    tenant_id: Option<String>,
    /// How many requests a second may post events with the key; absent where there is no limit.
    rate_limit_per_second: Option<u32>,
    /// When the key was created (RFC 3339).
    created_at: DateTime<Utc>,
    /// From this time on the key opens nothing any more; absent where that never comes (RFC 3339).
    expires_at: Option<DateTime<Utc>>,
    /// When the key was last used, up to a minute late; absent where it never was (RFC 3339).
    last_used_at: Option<DateTime<Utc>>,
    /// When the key was revoked; absent where it was not (RFC 3339).
    revoked_at: Option<DateTime<Utc>>,
}

/// The answer to a creation.
#[derive(Debug, ApiResponse)]
pub enum Created {
    /// The key exists. This is the only answer that shows it.
    #[oai(status = 201)]
    Created(Json<ApiKeyView>),
}

#[OpenApi(tag = "Tag::ApiKeys")]
impl ApiKeysApi {
    /// Create an API key
    ///
    /// A key that is bound to a tenant can only make keys for that tenant.
    #[oai(path = "/api-keys", method = "post", operation_id = "create_api_key")]
    async fn create(
        &self,
        key: Key<Admin>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        body: JsonBody<ApiKeyInput>,
    ) -> Result<Created, ApiError> {
        let tenant_id = key.lists(body.value.tenant_id.as_deref())?;
        let scope = tenant_id.as_deref().unwrap_or_default();
        let idempotent = self.0.key_ttl.request(idempotency_key.0.as_deref(), scope, "POST /api-keys", &body.bytes)?;
        let now = Utc::now();
        let key_of_the_past = idempotent.as_ref().filter(|_| body.value.expires_at.is_some_and(|at| at <= now));
        let is_again = match key_of_the_past {
            Some(once) => idempotency::is_known(&self.0.pool, scope, &once.key).await?,
            None => false,
        };
        let new = body.value.parse(tenant_id.clone(), if is_again { DateTime::UNIX_EPOCH } else { now })?;
        let answer = |key: &ApiKey, text: &str| with_key(key, text).to_json_string().into_bytes();
        let made = api_key::create(&self.0.pool, &self.0.keyring, key.actor(), &new, idempotent.as_ref(), answer);
        Ok(Created::Created(Json(match made.await? {
            Creation::Now((key, text)) => {
                // A request may have tried this key before it was stored; then the cache remembers that it does not
                // exist.
                self.0.keys.invalidate(&Change::ApiKey(api_key::digest(&text))).await;
                with_key(&key, &text)
            }
            Creation::Before(answer) => stored_answer(&answer)?,
        })))
    }

    /// List API keys
    ///
    /// The newest first, those that are revoked too. The key from the environment and portal links are not among them.
    #[oai(path = "/api-keys", method = "get", operation_id = "list_api_keys")]
    async fn list(
        &self,
        key: Key<Admin>,
        /// Only keys that are bound to this tenant, such as `acme`.
        tenant_id: Query<Option<String>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<ApiKeyView>>, ApiError> {
        let tenant = key.lists(tenant_id.0.as_deref())?;
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: KeyId| id.0)?;
        let found = api_key::list(&self.0.pool, tenant.as_deref(), wanted.page()).await?;
        Ok(Json(wanted.list(found, |one| one.id, view)))
    }

    /// Revoke an API key
    ///
    /// It opens nothing any more, at once and in all processes. It stays in the list.
    #[oai(path = "/api-keys/:id", method = "delete", operation_id = "revoke_api_key")]
    async fn revoke(&self, key: Key<Admin>, id: Path<String>) -> Result<Json<ApiKeyView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        let (revoked, digest) = api_key::revoke(&self.0.pool, key.actor(), KeyKind::Key, id).await?;
        self.0.keys.invalidate(&Change::ApiKey(digest)).await;
        Ok(Json(view(&revoked)))
    }
}

impl ApiKeyInput {
    fn parse(self, tenant_id: Option<String>, now: DateTime<Utc>) -> postrider_core::Result<NewApiKey> {
        let mut problems = Problems::default();
        let name = problems.take("name", Name::parse(self.name));
        problems.require(!self.scopes.is_empty(), "scopes", "must name at least one scope");
        let mut scopes = Vec::new();
        for (place, word) in self.scopes.iter().enumerate() {
            let scope = problems.take(&format!("scopes[{place}]"), word.parse::<Scope>());
            scopes.extend(scope.filter(|scope| !scopes.contains(scope)));
        }
        problems.require(self.expires_at.is_none_or(|at| at > now), "expires_at", "must be in the future");
        problems.take("expires_at", self.expires_at.map_or(Ok(()), moment));
        let rate_limit = self.rate_limit_per_second.map(RateLimit::parse);
        let rate_limit = rate_limit.and_then(|parsed| problems.take("rate_limit_per_second", parsed));
        problems.into_result()?;
        let name = name.expect("it is there, or noted as a problem");
        Ok(NewApiKey { kind: KeyKind::Key, tenant_id, name, scopes, rate_limit, expires_at: self.expires_at })
    }
}

fn with_key(key: &ApiKey, text: &str) -> ApiKeyView {
    ApiKeyView { key: Some(text.to_owned()), ..view(key) }
}

fn view(key: &ApiKey) -> ApiKeyView {
    ApiKeyView {
        id: key.id.to_string(),
        name: key.name.as_str().to_owned(),
        key: None,
        hint: key.hint.clone(),
        scopes: key.scopes.iter().map(ToString::to_string).collect(),
        tenant_id: key.tenant_id.clone(),
        rate_limit_per_second: key.rate_limit.map(RateLimit::per_second),
        created_at: key.created_at,
        expires_at: key.expires_at,
        last_used_at: key.last_used_at,
        revoked_at: key.revoked_at,
    }
}
