//! Replays that are made at once: of one delivery, or of one event to the subscriptions that want it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result,
    delivery::{self, Status},
    event::{
        self,
        audience::Facts,
        event_type::EventType,
        idempotency::{self, Creation, IdempotentRequest},
        new_event::DELIVERIES_PER_REQUEST_MAX,
    },
    id::{DeliveryId, EventId, SubscriptionId},
    queue::{
        self,
        accept::{self, Origin},
        rows::NewDeliveryRow,
    },
    subscription::{State, cache::SubscriptionCache, settings::Timeout},
    trust::seal::Keyring,
};

/// The subscriptions to which an event is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// All subscriptions that want the event now.
    All,
    /// Subscriptions that want the event now and have no delivery of it.
    Missing,
}

/// Makes a new delivery of the same event to the place where a finished delivery went; returns the new id. If the old
/// one is a dead letter, it is marked resolved.
///
/// # Errors
/// A conflict where the delivery is not finished, or where its event or its subscription is gone.
pub async fn of_delivery(
    pool: &PgPool,
    keyring: &Keyring,
    id: DeliveryId,
    idempotent: Option<&IdempotentRequest>,
    answer: impl Fn(DeliveryId) -> Vec<u8>,
) -> Result<Creation<DeliveryId>> {
    // The delivery is read before the transaction begins: nobody holds one connection while waiting for another.
    let replayed = delivery::get(pool, id).await?;
    let mut transaction = pool.begin().await?;
    if let Some(answer) = idempotency::begin(&mut transaction, keyring, idempotent).await? {
        return Ok(Creation::Before(answer));
    }
    match replayed.status {
        Status::Pending | Status::InFlight => {
            return Err(Error::Conflict("the delivery is not finished; retry it instead".to_owned()));
        }
        Status::Succeeded | Status::DeadLetter | Status::Canceled => {}
    }
    if replayed.event_type.is_none() {
        return Err(Error::Conflict("its event does not exist any more".to_owned()));
    }
    refuse_expired(replayed.expires_at)?;
    let fresh = DeliveryId::new();
    let event = EventId(replayed.event_id);
    let lane = match replayed.subscription_id.map(SubscriptionId) {
        Some(subscription) => {
            require_enabled(&mut transaction, subscription).await?;
            Lane { id: subscription.0, subscription: Some(subscription), timeout: None }
        }
        None => copy_inline(&mut transaction, keyring, id, fresh).await?,
    };
    // The dead letter is locked before the lane, in the order that everybody uses.
    sqlx::query!("UPDATE dead_letters SET resolved_at = coalesce(resolved_at, now()) WHERE delivery_id = $1", id.0)
        .execute(&mut *transaction)
        .await?;
    store_deliveries(&mut transaction, &replayed.tenant_id, event, &[(fresh, lane, Some(id))]).await?;
    idempotency::finish(&mut transaction, keyring, idempotent, || answer(fresh)).await?;
    transaction.commit().await?;
    Ok(Creation::Now(fresh))
}

/// Makes new deliveries of an event; returns their ids.
///
/// # Errors
/// A conflict where the event has expired.
pub async fn of_event(
    pool: &PgPool,
    keyring: &Keyring,
    cache: &SubscriptionCache,
    (id, to): (EventId, To),
    idempotent: Option<&IdempotentRequest>,
    answer: impl Fn(&[DeliveryId]) -> Vec<u8>,
) -> Result<Creation<Vec<DeliveryId>>> {
    let event = event::get(pool, id).await?;
    if event.is_inline {
        return Err(Error::Conflict("the event was for one URL only; replay its delivery".to_owned()));
    }
    let payload = event::payload(pool, id).await?;
    let event_type: EventType = event.event_type.parse().map_err(Error::internal)?;
    let metadata = event.metadata.map(|metadata| metadata.0).unwrap_or_default();
    let facts = Facts::new(&event_type, &metadata, &payload.bytes, payload.content_encoding.as_ref());
    let audience = cache.audience(&event.tenant_id).await?;
    let wanting = audience.wanting(&facts).filter(|id| event.subscription_id.is_none_or(|posted_to| posted_to == id.0));
    let wanting: Vec<_> = wanting.collect();
    if wanting.len() > DELIVERIES_PER_REQUEST_MAX {
        return Err(Error::TooLarge(format!("a request may cause at most {DELIVERIES_PER_REQUEST_MAX} deliveries")));
    }

    let mut transaction = pool.begin().await?;
    if let Some(answer) = idempotency::begin(&mut transaction, keyring, idempotent).await? {
        return Ok(Creation::Before(answer));
    }
    refuse_expired(event.expires_at)?;
    let (first, last) = id.delivery_ids();
    let delivered = sqlx::query!(
        r#"SELECT d.id AS "id!", d.subscription_id AS "subscription_id!" FROM (
               (SELECT id, subscription_id FROM deliveries
                 WHERE id >= $2 AND id <= $3 AND event_id = $1 AND NOT is_replay)
               UNION ALL
               (SELECT id, subscription_id FROM deliveries WHERE event_id = $1 AND is_replay)) d
            WHERE d.subscription_id IS NOT NULL
            ORDER BY d.id"#,
        id.0,
        first,
        last
    );
    let delivered: HashMap<_, _> =
        delivered.fetch_all(&mut *transaction).await?.into_iter().map(|row| (row.subscription_id, row.id)).collect();
    let chosen = wanting.into_iter().filter(|id| to == To::All || !delivered.contains_key(&id.0));
    let chosen: Vec<_> = chosen
        .map(|id| {
            let lane = Lane { id: id.0, subscription: Some(id), timeout: None };
            (DeliveryId::new(), lane, delivered.get(&id.0).copied().map(DeliveryId))
        })
        .collect();
    store_deliveries(&mut transaction, &event.tenant_id, id, &chosen).await?;
    let ids: Vec<_> = chosen.iter().map(|(id, ..)| *id).collect();
    idempotency::finish(&mut transaction, keyring, idempotent, || answer(&ids)).await?;
    transaction.commit().await?;
    Ok(Creation::Now(ids))
}

struct Lane {
    id: Uuid,
    subscription: Option<SubscriptionId>,
    /// The timeout of an inline delivery, which decides its lane; `None` for a delivery to a subscription.
    timeout: Option<Timeout>,
}

/// Stores replays of one event; the workers are woken when the transaction commits.
async fn store_deliveries(
    connection: &mut PgConnection,
    tenant_id: &str,
    event: EventId,
    replays: &[(DeliveryId, Lane, Option<DeliveryId>)],
) -> Result<()> {
    if replays.is_empty() {
        return Ok(());
    }
    let deliveries = replays.iter().map(|(id, lane, of)| NewDeliveryRow {
        id: id.0,
        event_id: event.0,
        tenant_id,
        subscription_id: lane.subscription.map(|id| id.0),
        lane_id: lane.id,
        lease_ms: lane.timeout.map(Timeout::lease_ms),
        due_at: None,
        replay_of: of.map(|id| id.0),
    });
    accept::store_deliveries(connection, deliveries.collect(), Origin::Replay(None)).await?;
    queue::call_workers(connection).await
}

/// Copies an inline delivery's destination to another delivery. Secrets are sealed anew, because each sealed text opens
/// for one delivery only.
async fn copy_inline(
    connection: &mut PgConnection,
    keyring: &Keyring,
    from: DeliveryId,
    to: DeliveryId,
) -> Result<Lane> {
    let row = sqlx::query!(
        "SELECT lane_id, timeout_ms, secret, headers FROM inline_deliveries WHERE delivery_id = $1",
        from.0
    );
    let row = row.fetch_optional(&mut *connection).await?.ok_or(Error::NotFound("delivery"))?;
    let again = |sealed: &[u8]| {
        let opened = keyring.open(sealed, from.0.as_bytes()).map_err(Error::internal)?;
        Ok::<_, Error>(keyring.seal(&opened, to.0.as_bytes()))
    };
    sqlx::query!(
        "INSERT INTO inline_deliveries (delivery_id, lane_id, target_url, retry_policy, timeout_ms,
                                        signature_scheme, secret, headers)
         SELECT $2, lane_id, target_url, retry_policy, timeout_ms, signature_scheme, $3, $4
           FROM inline_deliveries WHERE delivery_id = $1",
        from.0,
        to.0,
        row.secret.as_deref().map(again).transpose()?,
        again(&row.headers)?,
    )
    .execute(connection)
    .await?;
    Ok(Lane { id: row.lane_id, subscription: None, timeout: Some(Timeout::from_stored(row.timeout_ms)) })
}

async fn require_enabled(connection: &mut PgConnection, id: SubscriptionId) -> Result<()> {
    let state = sqlx::query_scalar!(
        r#"SELECT state::text AS "state!" FROM subscriptions WHERE id = $1 AND deleted_at IS NULL"#,
        id.0
    );
    match state.fetch_optional(connection).await? {
        None => Err(Error::Conflict("its subscription does not exist any more".to_owned())),
        Some(state) if state == State::Disabled.as_str() => {
            Err(Error::Conflict("its subscription is disabled; enable it first".to_owned()))
        }
        Some(_) => Ok(()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a courtesy to the caller: the worker asks the database's clock before it delivers"
)]
fn refuse_expired(expires_at: Option<DateTime<Utc>>) -> Result<()> {
    if expires_at.is_some_and(|expires_at| expires_at <= Utc::now()) {
        return Err(Error::Conflict("the event has expired".to_owned()));
    }
    Ok(())
}
