//! Who may do what: the admin key on every management route, the key or a signature of the subscription at ingest.

use poem::{Request, RequestBody, http::header::AUTHORIZATION};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use postrider_core::subscription::Subscription;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::ApiError;

/// Names of the two ways to authenticate, in the `OpenAPI` document.
const API_KEY: &str = "ApiKey";
const HUB_SIGNATURE: &str = "HubSignature";
/// The header of an inbound signature.
const HUB_SIGNATURE_HEADER: &str = "X-Hub-Signature-256";

/// The bootstrap key with the scope `admin`, as its SHA-256: comparing digests takes the same time whatever differs.
#[derive(Clone)]
pub struct AdminKey([u8; 32]);

impl AdminKey {
    /// The key with this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text).into())
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

/// Proof that a request came with the admin key: a handler that takes it cannot run without.
#[derive(Clone, Copy, Debug)]
pub struct Admin;

/// What an ingest request offers as its authority.
#[derive(Clone, Debug)]
pub enum IngestCredential {
    /// A valid key.
    Key,
    /// A signature that is still to be verified, with the subscription's secret, over the body.
    HubSignature(String),
}

impl IngestCredential {
    /// Whether it opens this subscription for this payload.
    ///
    /// # Errors
    /// Unauthorized.
    pub fn check(&self, subscription: &Subscription, payload: &[u8]) -> Result<(), ApiError> {
        match self {
            Self::Key => Ok(()),
            Self::HubSignature(header) if subscription.secret.verifies_hub_signature(header, payload) => Ok(()),
            Self::HubSignature(_) => Err(ApiError::unauthorized("the signature does not fit the body and the secret")),
        }
    }
}

impl<'a> ApiExtractor<'a> for Admin {
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
        match bearer(request) {
            Some(key) if admin_key(request).is(key) => Ok(Self),
            Some(_) => Err(ApiError::unauthorized("this key is not known").into()),
            None => Err(ApiError::unauthorized("send the API key as `Authorization: Bearer pr_…`").into()),
        }
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
        if let Some(key) = bearer(request) {
            return if admin_key(request).is(key) {
                Ok(Self::Key)
            } else {
                Err(ApiError::unauthorized("this key is not known").into())
            };
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
            description: Some("An API key, `pr_…`"),
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

fn admin_key(request: &Request) -> &AdminKey {
    request.data().expect("the routes carry the admin key")
}
