//! Inline deliveries: an event that goes to one URL, without a subscription. The settings that a subscription would
//! hold come with the request, and are stored beside the delivery for as long as it exists.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use sqlx::{PgPool, types::Json};
use uuid::{Builder, Uuid, Variant, Version};

use crate::{
    Error, Result,
    database::bounded,
    delivery::destination::Destination,
    event::new_event::NewEvent,
    id::DeliveryId,
    queue::{
        accept::{Accepted, LeftAlone, repeated},
        retry_policy::RetryPolicy,
        rows::{EventKeyRow, NewDeliveryRow, NewEventRow},
    },
    subscription::settings::{CustomHeaders, Timeout},
    trust::{
        seal::Keyring,
        signature::SignatureScheme,
        signing_secret::{SigningSecret, SigningSecrets},
        target_url::TargetUrl,
    },
};

/// Where an inline delivery goes and how.
#[derive(Clone, Debug)]
pub struct InlineDelivery {
    /// The URL to which the event is sent.
    pub target_url: TargetUrl,
    /// The secrets that sign the attempts; they are unsigned where there are none.
    pub secrets: Option<SigningSecrets>,
    /// The way in which attempts are signed.
    pub signature_scheme: SignatureScheme,
    /// Headers that are sent with each attempt, besides Postrider's own.
    pub headers: CustomHeaders,
    /// When a failed attempt is repeated, and how often.
    pub retry_policy: RetryPolicy,
    /// How long one attempt may take.
    pub timeout: Timeout,
}

/// The result of storing an inline delivery.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Whether its event was new or repeated.
    pub accepted: Accepted,
    /// The lane in which the delivery waits.
    pub lane_id: Uuid,
    /// Lanes that this call armed; their workers still need a wake-up.
    pub armed: Vec<Uuid>,
    /// The lane, where this call left it alone.
    pub left_alone: LeftAlone,
    /// How long the statement took.
    pub took: Duration,
}

impl InlineDelivery {
    /// The destination of this delivery's attempts.
    #[must_use]
    pub fn destination(&self) -> Destination<'_> {
        Destination {
            target_url: &self.target_url,
            secrets: self.secrets.as_ref(),
            signature_scheme: self.signature_scheme,
            headers: &self.headers,
            retry_policy: &self.retry_policy,
            timeout_ms: self.timeout.ms(),
        }
    }

    /// The lane in which the delivery waits. There is one lane for each tenant, origin (RFC 6454) and timeout, because
    /// all leases of a lane last equally long.
    fn lane(&self, tenant_id: &str) -> Uuid {
        let origin = self.target_url.as_url().origin().ascii_serialization();
        let digest = Sha256::digest(format!("{origin} {} {tenant_id}", self.timeout.ms()));
        let bytes = <[u8; 16]>::try_from(&digest[..16]).expect("a digest is longer");
        Builder::from_bytes(bytes).with_variant(Variant::RFC4122).with_version(Version::Custom).into_uuid()
    }
}

/// Stores an event that goes to one URL. When this returns without an error, the event is on disk.
pub async fn accept(
    pool: &PgPool,
    keyring: &Keyring,
    event: &NewEvent,
    delivery: (DeliveryId, &InlineDelivery),
    key_ttl_seconds: u32,
) -> Result<Stored> {
    let (id, inline) = delivery;
    let lane_id = inline.lane(&event.tenant_id);
    let sealed = |secret: &[u8]| keyring.seal(secret, id.0.as_bytes());
    let new_delivery = NewDeliveryRow {
        id: id.0,
        event_id: event.id.0,
        tenant_id: &event.tenant_id,
        subscription_id: None,
        lane_id,
        lease_ms: Some(inline.timeout.lease_ms()),
        due_at: event.deliver_at,
        replay_of: None,
    };
    let keys: Vec<_> = EventKeyRow::of(event, std::iter::once(id)).into_iter().collect();
    let row = sqlx::query!(
        r#"SELECT armed AS "armed!", known AS "known: Vec<Option<Uuid>>",
                  known_fingerprints AS "fingerprints: Vec<Option<Vec<u8>>>",
                  known_answers AS "answers: Vec<Option<Vec<u8>>>"
             FROM accept_inline($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"#,
        NewEventRow::of(event, true) as _,
        new_delivery as _,
        keys as _,
        i64::from(key_ttl_seconds) * 1000,
        inline.target_url.as_str(),
        inline.retry_policy.stored() as _,
        inline.timeout.stored(),
        inline.secrets.as_ref().map(|secrets| sealed(secrets.current.reveal().as_bytes())),
        sealed(&inline.headers.to_json()),
        inline.signature_scheme.as_str(),
    );
    let started = Instant::now();
    let row = bounded!(pool, row.fetch_one)?;
    let (known, fingerprints, answers) =
        (row.known.unwrap_or_default(), row.fingerprints.unwrap_or_default(), row.answers.unwrap_or_default());
    let accepted = event.key.as_ref().map_or(Ok(Accepted::New), |key| {
        repeated(
            key,
            known.first().copied().flatten(),
            fingerprints.first().and_then(Option::as_deref),
            answers.first().and_then(Option::as_deref),
        )
    });
    let is_left_alone = event.deliver_at.is_none() && row.armed.is_empty();
    let left_alone = is_left_alone.then_some((lane_id, id.0)).into_iter().collect();
    Ok(Stored { accepted: accepted?, lane_id, armed: row.armed, left_alone, took: started.elapsed() })
}

/// Where an inline delivery goes and how; `None` where the delivery is not inline, or was removed.
pub async fn get(pool: &PgPool, keyring: &Keyring, id: DeliveryId) -> Result<Option<InlineDelivery>> {
    let row = sqlx::query!(
        r#"SELECT target_url, retry_policy AS "retry_policy: Json<RetryPolicy>", timeout_ms, secret, headers,
                  signature_scheme
             FROM inline_deliveries WHERE delivery_id = $1"#,
        id.0
    );
    let Some(row) = bounded!(pool, row.fetch_optional)? else {
        return Ok(None);
    };
    let open = |sealed: &[u8]| keyring.open(sealed, id.0.as_bytes()).map_err(Error::internal);
    let secret = row.secret.as_deref().map(open).transpose()?;
    let secret = secret.map(|text| SigningSecret::parse(&String::from_utf8_lossy(&text)).map_err(Error::internal));
    Ok(Some(InlineDelivery {
        target_url: TargetUrl::from_stored(&row.target_url).map_err(Error::internal)?,
        secrets: secret.transpose()?.map(SigningSecrets::only),
        signature_scheme: row.signature_scheme.parse().map_err(Error::internal)?,
        headers: CustomHeaders::from_json(&open(&row.headers)?).map_err(Error::internal)?,
        retry_policy: row.retry_policy.map(|policy| policy.0).unwrap_or_default(),
        timeout: Timeout::from_stored(row.timeout_ms),
    }))
}
