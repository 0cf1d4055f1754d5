//! A subscription's database row, the statement that reads it, and its conversion: secrets are opened, texts are
//! parsed.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    Error, Result,
    access::ingest_limit::RateLimit,
    event::{event_type::EventTypePatterns, filter::Filters, metadata::Metadata},
    id::SubscriptionId,
    name::Name,
    queue::retry_policy::RetryPolicy,
    subscription::{
        Subscription,
        circuit::CircuitSettings,
        event_type_header::EventTypeHeader,
        flow_settings::{DeliveryRate, DisableAfter, FlowSettings, MaxInFlight},
        settings::{CustomHeaders, Settings, Timeout},
    },
    trust::{
        ingest_auth::IngestSignature,
        seal::{Keyring, ingest_signature_context},
        signing_secret::{PreviousSecret, SigningSecret, SigningSecrets},
        target_url::TargetUrl,
    },
};

/// The statement that reads whole subscriptions, completed by a condition with its arguments, so that the columns are
/// listed once.
macro_rules! select_subscriptions {
    ($condition:tt, $($arguments:tt)*) => {
        sqlx::query_as!(
            $crate::subscription::row::Row,
            r#"SELECT id, tenant_id, name, target_url, event_types, metadata AS "metadata: _",
                      filters::text AS filters, retry_policy AS "retry_policy: _", timeout_ms, state::text AS "state!",
                      disabled_reason, secret, headers, signature_scheme, ingest_auth, ingest_signature,
                      ingest_event_type_header, ingest_rate_limit_per_second, circuit AS "circuit: _",
                      rate_limit_per_second, rate_limit_burst, max_in_flight, ordering, disable_after_days,
                      ARRAY(SELECT p.secret FROM previous_secrets p
                             WHERE p.subscription_id = s.id AND p.expires_at > now()
                             ORDER BY p.replaced_at DESC) AS "previous_secrets!",
                      ARRAY(SELECT p.expires_at FROM previous_secrets p
                             WHERE p.subscription_id = s.id AND p.expires_at > now()
                             ORDER BY p.replaced_at DESC) AS "previous_expire_at!",
                      (SELECT l.rests_until FROM lanes l WHERE l.id = s.id AND l.rests_until > now()
                        ORDER BY l.revision DESC LIMIT 1) AS rests_until,
                      created_at, updated_at
                 FROM subscriptions s "# + $condition,
            $($arguments)*
        )
    };
}
pub(crate) use select_subscriptions;

/// The columns of a subscription; secrets are sealed.
pub struct Row {
    pub id: Uuid,
    pub tenant_id: String,
    pub name: Option<String>,
    pub target_url: String,
    pub event_types: Vec<String>,
    pub metadata: Json<Metadata>,
    pub filters: Option<String>,
    pub retry_policy: Option<Json<RetryPolicy>>,
    pub timeout_ms: i32,
    pub state: String,
    pub disabled_reason: Option<String>,
    pub rests_until: Option<DateTime<Utc>>,
    pub secret: Vec<u8>,
    pub headers: Vec<u8>,
    pub signature_scheme: String,
    pub ingest_auth: String,
    pub ingest_signature: Option<Vec<u8>>,
    pub ingest_event_type_header: Option<String>,
    pub ingest_rate_limit_per_second: Option<i32>,
    pub circuit: Option<Json<CircuitSettings>>,
    pub rate_limit_per_second: Option<f64>,
    pub rate_limit_burst: Option<i32>,
    pub max_in_flight: Option<i32>,
    pub ordering: String,
    pub disable_after_days: Option<i32>,
    /// Earlier secrets that have not expired, the latest first.
    pub previous_secrets: Vec<Vec<u8>>,
    pub previous_expire_at: Vec<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Row {
    /// Opens the secrets and parses the texts.
    pub fn open(self, keyring: &Keyring) -> Result<Subscription> {
        let id = self.id;
        let open = |sealed: &[u8]| keyring.open(sealed, id.as_bytes()).map_err(Error::internal);
        let secret = |sealed: &[u8]| -> Result<SigningSecret> {
            SigningSecret::parse(&String::from_utf8_lossy(&open(sealed)?)).map_err(Error::internal)
        };
        let previous = self.previous_secrets.iter().zip(self.previous_expire_at);
        let previous = previous.map(|(sealed, expires_at)| Ok(PreviousSecret { secret: secret(sealed)?, expires_at }));
        let ingest_signature = self.ingest_signature.map(|sealed| {
            let json = keyring.open(&sealed, &ingest_signature_context(id)).map_err(Error::internal)?;
            IngestSignature::from_json(&json).map_err(Error::internal)
        });
        let rate = self.rate_limit_per_second;
        let flow = FlowSettings {
            circuit: self.circuit.map(|circuit| circuit.0),
            rate: rate.map(|per_second| DeliveryRate::from_stored(per_second, self.rate_limit_burst)),
            max_in_flight: self.max_in_flight.map(MaxInFlight::from_stored),
            ordering: self.ordering.parse().map_err(Error::internal)?,
            disable_after: self.disable_after_days.map(DisableAfter::from_stored),
        };
        Ok(Subscription {
            id: SubscriptionId(id),
            tenant_id: self.tenant_id,
            settings: Settings {
                name: self.name.map(Name::from_stored),
                target_url: TargetUrl::from_stored(&self.target_url).map_err(Error::internal)?,
                event_types: EventTypePatterns::from_stored(&self.event_types)?,
                filters: filters_of(self.filters)?,
                headers: CustomHeaders::from_json(&open(&self.headers)?).map_err(Error::internal)?,
                metadata: self.metadata.0,
                retry_policy: self.retry_policy.map(|policy| policy.0).unwrap_or_default(),
                timeout: Timeout::from_stored(self.timeout_ms),
                signature_scheme: self.signature_scheme.parse().map_err(Error::internal)?,
                ingest_auth: self.ingest_auth.parse().map_err(Error::internal)?,
                ingest_signature: ingest_signature.transpose()?,
                ingest_event_type_header: self.ingest_event_type_header.map(EventTypeHeader::from_stored),
                ingest_rate_limit: self.ingest_rate_limit_per_second.map(RateLimit::from_stored),
                flow,
            },
            secrets: SigningSecrets { current: secret(&self.secret)?, previous: previous.collect::<Result<_>>()? },
            state: self.state.parse().map_err(Error::internal)?,
            disabled_reason: self.disabled_reason,
            rests_until: self.rests_until,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// Parses filters in the form in which they are stored; no filters where there are none.
pub fn filters_of(stored: Option<String>) -> Result<Filters> {
    stored.map_or_else(|| Ok(Filters::default()), |json| Filters::from_json(&json).map_err(Error::internal))
}
