//! Who calls: on guarded routes an API key with the scope of the route. What the caller may then reach stands in
//! [`crate::access`], and what opens ingest in [`crate::access::ingest_credential`].

use std::marker::PhantomData;

use chrono::Utc;
use poem::{Request, RequestBody, http::header::AUTHORIZATION};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use postrider_core::access::api_key::{ApiKeyCache, Digest, Scope, digest};
use subtle::ConstantTimeEq;

use crate::{
    access::{Access, ingest_limits::IngestLimits},
    serve::problem::ApiError,
};

/// The name of the security scheme for API keys in the `OpenAPI` document.
pub(crate) const API_KEY: &str = "ApiKey";

/// The admin key from the environment, kept as its SHA-256: comparing two digests takes the same time wherever they
/// differ, so the time tells nothing of the key.
#[derive(Clone)]
pub struct AdminKey(Digest);

impl AdminKey {
    /// Hashes the text of the key.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(digest(text))
    }

    /// What people call it.
    pub(crate) const NAME: &str = "the admin key";

    fn is(&self, text: &str) -> bool {
        self.has(&digest(text))
    }

    /// Whether this is the digest of the key's text.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        digest.ct_eq(&self.0).into()
    }
}

impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminKey(…)")
    }
}

/// Finds out which key a request carries; it knows the admin key and every API key.
#[derive(Clone)]
pub struct Authenticator {
    /// The admin key from the environment.
    pub admin_key: AdminKey,
    /// The API keys from the database, cached.
    pub keys: ApiKeyCache,
    /// How many requests a second may post events, by key and by subscription.
    pub limits: IngestLimits,
}

impl Authenticator {
    /// What the key in a request reaches; `None` where the request has no key, or one that is not valid.
    pub(crate) async fn identify(&self, request: &Request) -> Result<Option<Access>, ApiError> {
        let Some(text) = bearer(request) else { return Ok(None) };
        self.access_of(text).await
    }

    /// What this key reaches; `None` where it is not valid.
    pub(crate) async fn access_of(&self, text: &str) -> Result<Option<Access>, ApiError> {
        if self.admin_key.is(text) {
            return Ok(Some(Access::admin()));
        }
        Ok(self.keys.get(text, Utc::now()).await?.map(|key| Access::of(&key)))
    }

    /// What the key in a request reaches; an error where there is no valid key or where it lacks the scope.
    async fn access(&self, request: &Request, scope: Scope) -> Result<Access, ApiError> {
        let Some(access) = self.identify(request).await? else { return Err(ApiError::no_key(request)) };
        if !access.may(scope) {
            return Err(ApiError::forbidden(scope));
        }
        if scope == Scope::Ingest {
            self.limits.ask_key(request, &access)?;
        }
        Ok(access)
    }
}

impl ApiError {
    /// The answer to a request that brought no valid key.
    pub(crate) fn no_key(request: &Request) -> Self {
        Self::unauthorized(if bearer(request).is_some() {
            "this key is not known, or not valid any more"
        } else {
            "send the API key as `Authorization: Bearer pr_…`"
        })
    }
}

/// A scope as a type, so that [`Key`] can name the scope that it proves.
pub trait Asks: Send + Sync {
    /// The scope that the type stands for.
    const SCOPE: Scope;
}

/// The scope `admin`: everything, API keys and the audit log included.
pub struct Admin;
/// The scope `manage`: reading and changing.
pub struct Manage;
/// The scope `ingest`: posting events and inline deliveries.
pub struct Ingest;
/// The scope `read`: reading only.
pub struct Read;

impl Asks for Admin {
    const SCOPE: Scope = Scope::Admin;
}
impl Asks for Manage {
    const SCOPE: Scope = Scope::Manage;
}
impl Asks for Ingest {
    const SCOPE: Scope = Scope::Ingest;
}
impl Asks for Read {
    const SCOPE: Scope = Scope::Read;
}

/// Proof that a request came with a key that has the scope `S`. A handler takes it as an argument, so the handler
/// cannot run without such a key.
pub struct Key<S>(Access, PhantomData<S>);

impl<S> std::ops::Deref for Key<S> {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.0
    }
}

impl<'a, S: Asks> ApiExtractor<'a> for Key<S> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_api_key(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![API_KEY]
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        Ok(Self(authenticator(request).access(request, S::SCOPE).await?, PhantomData))
    }
}

pub(crate) fn register_api_key(registry: &mut Registry) {
    registry.create_security_scheme(
        API_KEY,
        MetaSecurityScheme {
            ty: "http",
            description: Some(
                "An API key, `pr_…`. Scopes: `read` for GET, `manage` for changes, `ingest` for posting events and \
                 inline deliveries, `admin` for API keys, portal links and the audit log; `admin` includes all, \
                 `manage` includes `read`",
            ),
            name: None,
            key_in: None,
            scheme: Some("bearer"),
            bearer_format: Some("pr_…"),
            flows: None,
            openid_connect_url: None,
        },
    );
}

/// The token of an `Authorization: Bearer` header. The word `Bearer` may stand in any case (RFC 9110 §11.1).
fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

pub(crate) fn authenticator(request: &Request) -> &Authenticator {
    request.data().expect("the routes carry the authenticator")
}
