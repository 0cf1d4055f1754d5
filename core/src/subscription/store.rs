//! Subscriptions in the database: the SQL. Each change comes with its entry in the audit log. Changes of their states
//! are in [`crate::subscription::state`].

use serde_json::Value;
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Error, Result,
    access::{
        audit::{self, Actor, NewEntry},
        ingest_limit::RateLimit,
    },
    event::{
        audience::{Audience, Interest},
        event_type::EventTypePatterns,
        idempotency::{self, Creation, IdempotentRequest},
    },
    id::SubscriptionId,
    name::Name,
    subscription::{
        Subscription,
        event_type_header::EventTypeHeader,
        flow_settings::{DeliveryRate, DisableAfter, MaxInFlight, Ordering},
        lane, previous_secret,
        row::{filters_of, select_subscriptions},
        settings::Settings,
        settings_input::Checked,
    },
    trust::{
        seal::{Keyring, ingest_signature_context},
        signing_secret::{SigningSecret, SigningSecrets},
    },
};

/// Reads and writes subscriptions, sealing and opening their secrets.
#[derive(Clone, Debug)]
pub struct Subscriptions {
    pub(crate) pool: PgPool,
    pub(crate) keyring: Keyring,
}

impl Subscriptions {
    /// Subscriptions in this database, whose secrets this keyring seals.
    #[must_use]
    pub fn new(pool: PgPool, keyring: Keyring) -> Self {
        Self { pool, keyring }
    }

    /// Creates a subscription and the lane in which its deliveries will wait, or returns the stored answer where the
    /// same request was made before. It signs with `secret`, or with a fresh one where there is none. `answer` makes
    /// the answer that is stored with the idempotency key.
    pub async fn create(
        &self,
        actor: Actor,
        tenant_id: &str,
        settings: &Settings,
        secret: Option<SigningSecret>,
        idempotent: Option<&IdempotentRequest>,
        answer: impl Fn(&Subscription) -> Vec<u8>,
    ) -> Result<Creation<Subscription>> {
        let mut transaction = self.pool.begin().await?;
        if let Some(answer) = idempotency::begin(&mut transaction, &self.keyring, idempotent).await? {
            return Ok(Creation::Before(answer));
        }
        let created = self.insert(&mut transaction, actor, tenant_id, settings, secret).await?;
        idempotency::finish(&mut transaction, &self.keyring, idempotent, || answer(&created)).await?;
        transaction.commit().await?;
        Ok(Creation::Now(created))
    }

    /// Creates a subscription and its lane, in the caller's transaction.
    pub(crate) async fn insert(
        &self,
        connection: &mut PgConnection,
        actor: Actor,
        tenant_id: &str,
        settings: &Settings,
        secret: Option<SigningSecret>,
    ) -> Result<Subscription> {
        let id = SubscriptionId::new();
        let secret = secret.unwrap_or_else(|| SigningSecret::generate(settings.signature_scheme.secret_kind()));
        let flow = &settings.flow;
        sqlx::query!(
            "INSERT INTO subscriptions (id, tenant_id, name, target_url, event_types, metadata, retry_policy,
                                        timeout_ms, secret, headers, filters, signature_scheme, ingest_auth,
                                        ingest_signature, ingest_event_type_header, ingest_rate_limit_per_second,
                                        circuit, rate_limit_per_second, rate_limit_burst, max_in_flight, ordering,
                                        disable_after_days)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::json, $12, $13, $14, $15, $16, $17, $18, $19,
                     $20, $21, $22)",
            id.0,
            tenant_id,
            settings.name.as_ref().map(Name::as_str),
            settings.target_url.as_str(),
            &settings.event_types.to_texts(),
            Json(&settings.metadata) as _,
            settings.retry_policy.stored() as _,
            settings.timeout.stored(),
            self.keyring.seal(secret.reveal().as_bytes(), id.0.as_bytes()),
            self.keyring.seal(&settings.headers.to_json(), id.0.as_bytes()),
            settings.filters.to_value().map(|filters| filters.to_string()),
            settings.signature_scheme.as_str(),
            settings.ingest_auth.as_str(),
            self.sealed_ingest_signature(id, settings),
            settings.ingest_event_type_header.as_ref().map(EventTypeHeader::as_str),
            settings.ingest_rate_limit.map(RateLimit::stored),
            flow.circuit.map(Json) as _,
            flow.rate.map(DeliveryRate::per_second),
            flow.rate.and_then(DeliveryRate::stored_burst),
            flow.max_in_flight.map(MaxInFlight::stored),
            flow.ordering.as_str(),
            flow.disable_after.map(DisableAfter::stored),
        )
        .execute(&mut *connection)
        .await?;
        lane::create(&mut *connection, id, settings).await?;
        let created = self.fetch(&mut *connection, id).await?;
        note(connection, actor, "subscription.created", &created, None, Some(created.audited())).await?;
        Ok(created)
    }

    /// Reads one subscription.
    pub async fn get(&self, id: SubscriptionId) -> Result<Subscription> {
        self.fetch(&mut *self.pool.acquire().await?, id).await
    }

    /// Reads subscriptions; one that does not exist, or that cannot be read, is absent from the result.
    pub(crate) async fn get_all(&self, ids: &[Uuid]) -> Result<Vec<Subscription>> {
        let rows = select_subscriptions!("WHERE id = ANY ($1) AND deleted_at IS NULL", ids);
        let rows = rows.fetch_all(&self.pool).await?;
        Ok(rows.into_iter().filter_map(|row| row.open(&self.keyring).ok()).collect())
    }

    /// Reads the interests of a tenant's subscriptions; disabled ones want nothing.
    pub async fn audience(&self, tenant_id: &str) -> Result<Audience> {
        let rows = sqlx::query!(
            "SELECT id, event_types, filters::text AS filters, ordering FROM subscriptions
              WHERE tenant_id = $1 AND deleted_at IS NULL AND state <> 'disabled'
              ORDER BY id",
            tenant_id
        );
        let rows = rows.fetch_all(&self.pool).await?;
        let is_ordered = rows.iter().any(|row| row.ordering == Ordering::Fifo.as_str());
        let interests = rows.into_iter().map(|row| {
            Ok(Interest {
                id: SubscriptionId(row.id),
                event_types: EventTypePatterns::from_stored(&row.event_types)?,
                filters: filters_of(row.filters)?,
            })
        });
        let audience = Audience::new(interests.collect::<Result<_>>()?);
        Ok(if is_ordered { audience.in_order() } else { audience })
    }

    /// Changes the settings to what `change` makes of the present ones, and the secret where `change` gives a new one.
    /// The row is locked, so nobody else changes it in between.
    pub async fn update(
        &self,
        actor: Actor,
        id: SubscriptionId,
        change: impl FnOnce(&Subscription) -> Result<Checked>,
    ) -> Result<Subscription> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, id).await?;
        let current = self.fetch(&mut transaction, id).await?;
        let Checked { settings, secret } = change(&current)?;
        let flow = &settings.flow;
        sqlx::query!(
            "UPDATE subscriptions
                SET name = $2, target_url = $3, event_types = $4, metadata = $5, retry_policy = $6, timeout_ms = $7,
                    headers = $8, filters = $9::text::json, signature_scheme = $10, ingest_auth = $11,
                    ingest_signature = $12, ingest_event_type_header = $13, ingest_rate_limit_per_second = $14,
                    circuit = $15, rate_limit_per_second = $16, rate_limit_burst = $17, max_in_flight = $18,
                    ordering = $19, disable_after_days = $20, updated_at = now()
              WHERE id = $1",
            id.0,
            settings.name.as_ref().map(Name::as_str),
            settings.target_url.as_str(),
            &settings.event_types.to_texts(),
            Json(&settings.metadata) as _,
            settings.retry_policy.stored() as _,
            settings.timeout.stored(),
            self.keyring.seal(&settings.headers.to_json(), id.0.as_bytes()),
            settings.filters.to_value().map(|filters| filters.to_string()),
            settings.signature_scheme.as_str(),
            settings.ingest_auth.as_str(),
            self.sealed_ingest_signature(id, &settings),
            settings.ingest_event_type_header.as_ref().map(EventTypeHeader::as_str),
            settings.ingest_rate_limit.map(RateLimit::stored),
            flow.circuit.map(Json) as _,
            flow.rate.map(DeliveryRate::per_second),
            flow.rate.and_then(DeliveryRate::stored_burst),
            flow.max_in_flight.map(MaxInFlight::stored),
            flow.ordering.as_str(),
            flow.disable_after.map(DisableAfter::stored),
        )
        .execute(&mut *transaction)
        .await?;
        if let Some(replacement) = &secret {
            previous_secret::replace(&mut transaction, &self.keyring, id, replacement).await?;
        }
        lane::update(&mut transaction, id, &current.settings, &settings).await?;
        let updated = self.fetch(&mut transaction, id).await?;
        let mut after = updated.audited();
        if secret.is_some() {
            after["secret"] = "[changed]".into();
        }
        if let (Some(is), Some(was)) = (&updated.settings.ingest_signature, &current.settings.ingest_signature)
            && !is.has_secrets_of(was)
        {
            after["ingest_signature"]["secrets"] = "[changed]".into();
        }
        note(&mut transaction, actor, "subscription.changed", &updated, Some(current.audited()), Some(after)).await?;
        transaction.commit().await?;
        Ok(updated)
    }

    /// Returns the subscription's secrets; the audit log records that they were shown.
    pub async fn show_secrets(&self, actor: Actor, id: SubscriptionId) -> Result<SigningSecrets> {
        let mut transaction = self.pool.begin().await?;
        let shown = self.fetch(&mut transaction, id).await?;
        note(&mut transaction, actor, "subscription.secret_shown", &shown, None, None).await?;
        transaction.commit().await?;
        Ok(shown.secrets)
    }

    fn sealed_ingest_signature(&self, id: SubscriptionId, settings: &Settings) -> Option<Vec<u8>> {
        let signature = settings.ingest_signature.as_ref()?;
        Some(self.keyring.seal(&signature.to_json(), &ingest_signature_context(id.0)))
    }

    pub(crate) async fn fetch(&self, connection: &mut PgConnection, id: SubscriptionId) -> Result<Subscription> {
        let row = select_subscriptions!("WHERE id = $1 AND deleted_at IS NULL", id.0);
        row.fetch_optional(connection).await?.ok_or(Error::NotFound("subscription"))?.open(&self.keyring)
    }
}

/// Reads a subscription's interest on the caller's connection; `None` where it is disabled or does not exist.
pub(crate) async fn interest(connection: &mut PgConnection, id: SubscriptionId) -> Result<Option<Interest>> {
    let row = sqlx::query!(
        "SELECT event_types, filters::text AS filters FROM subscriptions
          WHERE id = $1 AND deleted_at IS NULL AND state <> 'disabled'",
        id.0
    );
    let Some(row) = row.fetch_optional(connection).await? else { return Ok(None) };
    let event_types = EventTypePatterns::from_stored(&row.event_types)?;
    Ok(Some(Interest { id, event_types, filters: filters_of(row.filters)? }))
}

/// Locks the subscription's row, so that changes to it come one after the other.
pub(crate) async fn lock(connection: &mut PgConnection, id: SubscriptionId) -> Result<()> {
    sqlx::query!("SELECT id FROM subscriptions WHERE id = $1 AND deleted_at IS NULL FOR UPDATE", id.0)
        .fetch_optional(connection)
        .await?
        .map(|_| ())
        .ok_or(Error::NotFound("subscription"))
}

/// Writes a change of a subscription into the audit log.
pub(crate) async fn note(
    connection: &mut PgConnection,
    actor: Actor,
    action: &'static str,
    subscription: &Subscription,
    before: Option<Value>,
    after: Option<Value>,
) -> Result<()> {
    let (tenant_id, target_id) = (Some(subscription.tenant_id.as_str()), subscription.id.to_string());
    audit::record(connection, NewEntry { tenant_id, actor, action, target_id, before, after }).await
}
