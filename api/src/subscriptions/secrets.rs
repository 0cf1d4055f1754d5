//! A subscription's secrets: showing them, replacing them, and publishing the public keys to everybody.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use poem_openapi::{
    Object, OpenApi,
    param::{Header, Path},
    payload::Json,
    types::ToJSON,
};
use postrider_core::{
    event::idempotency::Creation,
    id::SubscriptionId,
    subscription::{Subscription, previous_secret::Overlap},
    trust::signing_secret::{SigningSecret, SigningSecrets},
    validation::Problems,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    access::auth::{Key, Manage},
    app::{App, Tag},
    serve::{
        body::{Input, JsonBody},
        idempotency::stored_answer,
        problem::ApiError,
    },
    subscriptions::view::SubscriptionView,
};

/// The routes of a subscription's secrets.
pub struct SecretsApi(pub App);

/// What signs the deliveries of a subscription.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "SubscriptionSecrets")]
pub struct SecretsView {
    /// The secret that signs: `whsec_` and base64, or with the scheme `standard_v1a`, `whsk_` and base64.
    secret: String,
    /// The public half of the secret, `whpk_` and base64; only with the scheme `standard_v1a`.
    public_key: Option<String>,
    /// Secrets that have been replaced and still sign, the latest first; at most 4.
    previous: Vec<PreviousView>,
}

/// A secret that has been replaced and still signs.
#[derive(Debug, Object)]
#[oai(rename = "PreviousSecret")]
pub struct PreviousView {
    /// The secret, in the same form as the current one.
    secret: String,
    /// From this time on the secret does not sign any more (RFC 3339).
    expires_at: DateTime<Utc>,
}

/// How a secret is replaced. No body at all means the same as `{}`.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "SecretRotationInput")]
pub struct RotationInput {
    /// The new secret: `whsec_` and 24 to 64 bytes as base64; for `standard_v1a`, `whsk_` and an Ed25519 key pair of 64
    /// bytes as base64. Made for you where absent.
    secret: Option<String>,
    /// For how many seconds the old secret goes on signing beside the new one, 0 to 604800 (7 days); 86400 (24 hours)
    /// where absent. No earlier secret signs for longer than that either, and 0 ends all of them at once.
    overlap_seconds: Option<u32>,
}

impl Input for RotationInput {
    const MAY_BE_EMPTY: bool = true;
}

/// The public keys of a subscription, as a JSON Web Key Set (RFC 7517).
#[derive(Debug, Object)]
#[oai(rename = "Jwks")]
pub struct JwksView {
    /// One key for each secret that signs; more than one while a rotation lasts.
    keys: Vec<JwkView>,
}

/// An Ed25519 public key (RFC 8037 §2).
#[derive(Debug, Object)]
#[oai(rename = "Jwk")]
pub struct JwkView {
    /// The kind of key: always `OKP`.
    kty: String,
    /// The curve: always `Ed25519`.
    crv: String,
    /// The public key, 32 bytes in base64url without padding.
    x: String,
    /// What the key is for: always `sig`.
    #[oai(rename = "use")]
    usage: String,
    /// The algorithm: always `EdDSA`.
    alg: String,
    /// The name of the key: the first 16 characters of its SHA-256 in base64url.
    kid: String,
}

/// The name of a public key has this many characters.
const KID_CHARACTERS: usize = 16;

#[OpenApi(tag = "Tag::Subscriptions")]
impl SecretsApi {
    /// Show a subscription's secrets
    ///
    /// Every look is written to the audit log.
    #[oai(path = "/subscriptions/:id/secret", method = "get", operation_id = "get_subscription_secret")]
    async fn show(&self, key: Key<Manage>, id: Path<String>) -> Result<Json<SecretsView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(SecretsView::of(&self.0.subscriptions.show_secrets(key.actor(), id).await?, Utc::now())))
    }

    /// Replace a subscription's secret
    ///
    /// The new secret signs from the next attempt on, in all processes, and the old one beside it until the overlap has
    /// passed: `webhook-signature` then holds a signature of each. The schemes that have room for one signature send
    /// those of earlier secrets in a header of their own, which ends in `-Previous`.
    #[oai(path = "/subscriptions/:id/rotate-secret", method = "post", operation_id = "rotate_subscription_secret")]
    async fn rotate(
        &self,
        key: Key<Manage>,
        id: Path<String>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        body: JsonBody<RotationInput>,
    ) -> Result<Json<SubscriptionView>, ApiError> {
        let id: SubscriptionId = key.find(&self.0.pool, &id.0).await?;
        let tenant = self.0.subscriptions.get(id).await?.tenant_id;
        let route = format!("POST /subscriptions/{id}/rotate-secret");
        let idempotent = self.0.key_ttl.request(idempotency_key.0.as_deref(), &tenant, &route, &body.bytes)?;
        let mut problems = Problems::default();
        let secret = body.value.secret.as_deref().map(SigningSecret::parse);
        let secret = secret.and_then(|parsed| problems.take("secret", parsed));
        let overlap = body.value.overlap_seconds.map_or_else(|| Ok(Overlap::default()), Overlap::parse);
        let overlap = problems.take("overlap_seconds", overlap);
        problems.into_result()?;
        let overlap = overlap.expect("it is there, or noted as a problem");
        let answer = |rotated: &Subscription| SubscriptionView::with_secret(rotated).to_json_string().into_bytes();
        let made =
            self.0.subscriptions.rotate_secret(key.actor(), id, secret, overlap, idempotent.as_ref(), answer).await?;
        Ok(Json(match made {
            Creation::Now(rotated) => {
                self.0.forget(&rotated).await;
                SubscriptionView::with_secret(&rotated)
            }
            Creation::Before(answer) => stored_answer(&answer)?,
        }))
    }

    /// Get a subscription's public keys
    ///
    /// Open to everybody, so that a receiver can fetch the keys that verify `v1a` signatures; during a rotation there
    /// are several. 404 where the subscription signs with a shared secret.
    #[oai(path = "/subscriptions/:id/jwks.json", method = "get", operation_id = "get_subscription_jwks")]
    async fn jwks(&self, id: Path<String>) -> Result<Json<JwksView>, ApiError> {
        let found = match id.0.parse() {
            Ok(id) => self.0.cache.get(id).await?,
            Err(_) => None,
        };
        // A subscription without public keys gets the same 404 as one that does not exist, so that nobody learns that
        // it exists.
        let subscription = found.ok_or_else(|| ApiError::not_found("subscription"))?;
        let keys = subscription.secrets.active(Utc::now()).filter_map(SigningSecret::public_key);
        let keys: Vec<_> = keys.map(JwkView::of).collect();
        if keys.is_empty() { Err(ApiError::not_found("subscription")) } else { Ok(Json(JwksView { keys })) }
    }
}

impl SecretsView {
    fn of(secrets: &SigningSecrets, now: DateTime<Utc>) -> Self {
        let previous = secrets
            .overlapping(now)
            .map(|previous| PreviousView { secret: previous.secret.reveal(), expires_at: previous.expires_at });
        Self {
            secret: secrets.current.reveal(),
            public_key: secrets.current.public_key_text(),
            previous: previous.collect(),
        }
    }
}

impl JwkView {
    fn of(key: &[u8]) -> Self {
        let mut kid = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(key));
        kid.truncate(KID_CHARACTERS);
        Self {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            x: BASE64_URL_SAFE_NO_PAD.encode(key),
            usage: "sig".to_owned(),
            alg: "EdDSA".to_owned(),
            kid,
        }
    }
}
