//! Who asks: an API key with its scope on every route, a key or a signature of the subscription at ingest. What the
//! caller may then reach is the business of [`crate::access`].

use std::marker::PhantomData;

use chrono::Utc;
use poem::{Request, RequestBody, http::header::AUTHORIZATION};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use postrider_core::{
    api_key::{ApiKeyCache, Digest, Scope, digest},
    subscription::Subscription,
};
use subtle::ConstantTimeEq;

use crate::{access::Access, problem::ApiError};

/// Names of the two ways to authenticate, in the `OpenAPI` document.
const API_KEY: &str = "ApiKey";
const HUB_SIGNATURE: &str = "HubSignature";
/// The header of an inbound signature.
const HUB_SIGNATURE_HEADER: &str = "X-Hub-Signature-256";

/// The bootstrap key with the scope `admin`, as its SHA-256: comparing digests takes the same time whatever differs.
#[derive(Clone)]
pub struct AdminKey(Digest);

impl AdminKey {
    /// The key with this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(digest(text))
    }

    fn is(&self, text: &str) -> bool {
        Self::new(text).0.ct_eq(&self.0).into()
    }
}

impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminKey(…)")
    }
}

/// Knows all keys.
#[derive(Clone)]
pub struct Authenticator {
    /// The key from the environment.
    pub admin_key: AdminKey,
    /// The keys from the database.
    pub keys: ApiKeyCache,
}

impl Authenticator {
    /// What the key in a request reaches; `None` where the request has none.
    async fn access(&self, request: &Request, scope: Scope) -> Result<Option<Access>, ApiError> {
        let Some(text) = bearer(request) else { return Ok(None) };
        let access = if self.admin_key.is(text) {
            Access::admin()
        } else {
            match self.keys.get(text, Utc::now()).await? {
                Some(key) => Access::of(&key),
                None => return Err(ApiError::unauthorized("this key is not known, or not valid any more")),
            }
        };
        if access.may(scope) { Ok(Some(access)) } else { Err(ApiError::forbidden(scope)) }
    }
}

/// A scope, as a type.
pub trait Asks: Send + Sync {
    /// The scope.
    const SCOPE: Scope;
}

/// Everything, API keys and the audit log included.
pub struct Admin;
/// Reading and changing.
pub struct Manage;
/// Posting events and inline deliveries.
pub struct Ingest;
/// Reading.
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

/// Proof that a request came with a key that has a scope: a handler that takes it cannot run without.
pub struct Key<S>(Access, PhantomData<S>);

impl<S> std::ops::Deref for Key<S> {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.0
    }
}

/// What an ingest request offers as its authority.
#[derive(Clone, Debug)]
pub enum IngestCredential {
    /// A valid key with the scope `ingest`.
    Key(Access),
    /// A signature that is still to be verified, with the subscription's secret, over the body.
    HubSignature(String),
}

impl IngestCredential {
    /// Whether it opens this subscription for this payload.
    ///
    /// # Errors
    /// Not found where it is another tenant's; unauthorized.
    pub fn check(&self, subscription: &Subscription, payload: &[u8]) -> Result<(), ApiError> {
        match self {
            Self::Key(access) if access.reaches(&subscription.tenant_id) => Ok(()),
            Self::Key(_) => Err(ApiError::not_found("subscription")),
            Self::HubSignature(header) if subscription.secret.verifies_hub_signature(header, payload) => Ok(()),
            Self::HubSignature(_) => Err(ApiError::unauthorized("the signature does not fit the body and the secret")),
        }
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
        let access = authenticator(request).access(request, S::SCOPE).await?;
        let missing = || ApiError::unauthorized("send the API key as `Authorization: Bearer pr_…`");
        Ok(Self(access.ok_or_else(missing)?, PhantomData))
    }
}

impl<'a> ApiExtractor<'a> for IngestCredential {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_api_key(registry);
        registry.create_security_scheme(
            HUB_SIGNATURE,
            MetaSecurityScheme {
                ty: "apiKey",
                description: Some("`sha256=` and the hex HMAC-SHA256 of the body, keyed with the text of the secret"),
                name: Some(HUB_SIGNATURE_HEADER),
                key_in: Some("header"),
                scheme: None,
                bearer_format: None,
                flows: None,
                openid_connect_url: None,
            },
        );
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![API_KEY, HUB_SIGNATURE]
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        if let Some(access) = authenticator(request).access(request, Scope::Ingest).await? {
            return Ok(Self::Key(access));
        }
        match request.header(HUB_SIGNATURE_HEADER) {
            Some(header) => Ok(Self::HubSignature(header.to_owned())),
            None => Err(ApiError::unauthorized(
                "send an API key as `Authorization: Bearer pr_…`, or sign the body in `X-Hub-Signature-256`",
            )
            .into()),
        }
    }
}

fn register_api_key(registry: &mut Registry) {
    registry.create_security_scheme(
        API_KEY,
        MetaSecurityScheme {
            ty: "http",
            description: Some(
                "An API key, `pr_…`. Scopes: `read` for GET, `manage` for changes, `ingest` for posting events and \
                 inline deliveries, `admin` for API keys and the audit log; `admin` includes all, `manage` includes `read`",
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

/// The token of an `Authorization: Bearer` header; the scheme's name in any case (RFC 9110 §11.1).
fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn authenticator(request: &Request) -> &Authenticator {
    request.data().expect("the routes carry the authenticator")
}
