//! What opens a subscription's ingest: a key, a signature, either of them, or nothing, as the owner of the subscription
//! has decided. A key is judged before the body is read, a signature afterwards.

use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use poem::{Request, RequestBody, http::HeaderMap};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use postrider_core::{
    Error,
    access::api_key::Scope,
    subscription::Subscription,
    trust::{
        inbound_signature::{Refused, Verified},
        ingest_auth::IngestAuth,
        provider::Provider,
    },
};

use crate::{
    access::{
        Access,
        auth::{API_KEY, authenticator, register_api_key},
    },
    serve::problem::ApiError,
};

/// Payloads of at most this many bytes are verified on the async thread, larger ones on a blocking thread.
const VERIFIED_AT_ONCE_BYTES_MAX: usize = 64 * 1024;

/// The credential that an ingest request offers: a key, a signature in its headers, both, or neither.
pub struct IngestCredential<'a> {
    request: &'a Request,
    /// What the request's key reaches, if it came with a valid one.
    access: Option<Access>,
}

/// What has opened a subscription's ingest to a request, or what still has to be verified.
pub enum Opens<'a> {
    /// The key opened it; nothing is left to verify.
    ByKey,
    /// The subscription takes requests from everybody; nothing is left to verify.
    ToAll,
    /// It is open if the signature fits the body, which has not been read yet.
    IfSigned(UnverifiedSignature<'a>),
}

/// The signature of a request, before it has been compared with the body.
pub struct UnverifiedSignature<'a>(&'a Request);

impl<'a> IngestCredential<'a> {
    /// Decides without the body whether the request opens this subscription's ingest. A request that does is counted
    /// against the rate limits here; a signed one is counted after its signature has been verified.
    ///
    /// # Errors
    /// Unauthorized; the same where there is no such subscription and no key. Not found where a key with the scope asks
    /// for a subscription that does not exist or that another tenant owns. Forbidden where the key lacks the scope. Too
    /// many requests.
    pub fn opens(self, subscription: Option<Arc<Subscription>>) -> Result<(Arc<Subscription>, Opens<'a>), ApiError> {
        let Some(subscription) = subscription else {
            return Err(match &self.access {
                Some(access) if access.may(Scope::Ingest) => ApiError::not_found("subscription"),
                Some(_) => ApiError::forbidden(Scope::Ingest),
                None => unauthorized(),
            });
        };
        let (auth, provider) = (subscription.settings.ingest_auth, subscription.ingest_provider());
        let is_signed = provider.is_offered(|name| self.request.header(name));
        let opens = match (auth, &self.access) {
            (IngestAuth::None, _) => Opens::ToAll,
            (IngestAuth::Key | IngestAuth::KeyOrSignature, Some(access)) if access.may(Scope::Ingest) => {
                if !access.reaches(&subscription.tenant_id) {
                    return Err(ApiError::not_found("subscription"));
                }
                authenticator(self.request).limits.ask_key(self.request, access)?;
                Opens::ByKey
            }
            (IngestAuth::Signature | IngestAuth::KeyOrSignature, _) if is_signed => {
                return Ok((subscription, Opens::IfSigned(UnverifiedSignature(self.request))));
            }
            (IngestAuth::Key | IngestAuth::KeyOrSignature, Some(_)) => return Err(ApiError::forbidden(Scope::Ingest)),
            (IngestAuth::Key | IngestAuth::KeyOrSignature | IngestAuth::Signature, _) => {
                return Err(unauthorized());
            }
        };
        count(self.request, &subscription)?;
        Ok((subscription, opens))
    }
}

impl UnverifiedSignature<'_> {
    /// Verifies the signature against the body. Only a request whose signature fits is counted against the rate limit,
    /// so nobody can use the limit up with forged signatures.
    ///
    /// # Errors
    /// Unauthorized where the signature does not fit; too many requests.
    pub async fn verify(self, subscription: &Arc<Subscription>, payload: &Bytes) -> Result<Verified, ApiError> {
        let verified = if payload.len() > VERIFIED_AT_ONCE_BYTES_MAX {
            // Hashing a large payload takes milliseconds, in which other requests on this thread would wait.
            let (subscription, payload) = (Arc::clone(subscription), payload.clone());
            let headers = self.0.headers().clone();
            let verifying = move || verify(&subscription, &headers, &payload);
            tokio::task::spawn_blocking(verifying).await.map_err(Error::internal)?
        } else {
            verify(subscription, self.0.headers(), payload)
        };
        let verified = verified.map_err(|refused| ApiError::unauthorized(refused.to_string()))?;
        count(self.0, subscription)?;
        Ok(verified)
    }
}

fn count(request: &Request, subscription: &Subscription) -> Result<(), ApiError> {
    authenticator(request).limits.ask_subscription(request, subscription)
}

fn verify(subscription: &Subscription, headers: &HeaderMap, payload: &[u8]) -> Result<Verified, Refused> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    subscription.verify_ingest(header, payload, Utc::now())
}

/// The same answer whether the subscription exists or not, so that a caller without rights does not learn which do.
fn unauthorized() -> ApiError {
    ApiError::unauthorized(
        "send a valid API key as `Authorization: Bearer pr_…`, or sign the body, as the subscription asks",
    )
}

/// The name of a provider's signature as a security scheme of the `OpenAPI` document, and its description.
fn scheme_of(provider: Provider) -> (&'static str, &'static str) {
    match provider {
        Provider::Github => ("HubSignature", "`sha256=` and the hex HMAC-SHA256 of the body"),
        Provider::Standard => {
            ("StandardWebhooks", "A Standard Webhooks signature, with `webhook-id` and `webhook-timestamp`")
        }
        Provider::Stripe => ("StripeSignature", "`t=…,v1=…` as Stripe sends it"),
        Provider::Shopify => ("ShopifySignature", "The base64 HMAC-SHA256 of the body"),
        Provider::Slack => ("SlackSignature", "`v0=…` as Slack sends it, with `X-Slack-Request-Timestamp`"),
        Provider::Meta => ("MetaSignature", "`sha256=` and the hex HMAC-SHA256 of the body, as Meta sends it"),
        Provider::Dropbox => ("DropboxSignature", "The hex HMAC-SHA256 of the body"),
        Provider::X => ("XSignature", "`sha256=` and the base64 HMAC-SHA256 of the body, as X sends it"),
        Provider::Trello => ("TrelloSignature", "The base64 HMAC-SHA1 of the body and the URL that was registered"),
        Provider::Okta => ("OktaSecret", "The secret that was given to Okta"),
    }
}

impl<'a> ApiExtractor<'a> for IngestCredential<'a> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_api_key(registry);
        for provider in Provider::ALL {
            let (name, description) = scheme_of(provider);
            registry.create_security_scheme(
                name,
                MetaSecurityScheme {
                    ty: "apiKey",
                    description: Some(description),
                    name: Some(provider.header()),
                    key_in: Some("header"),
                    scheme: None,
                    bearer_format: None,
                    flows: None,
                    openid_connect_url: None,
                },
            );
        }
    }

    fn security_schemes() -> Vec<&'static str> {
        std::iter::once(API_KEY).chain(Provider::ALL.map(|provider| scheme_of(provider).0)).collect()
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        Ok(Self { request, access: authenticator(request).identify(request).await? })
    }
}
