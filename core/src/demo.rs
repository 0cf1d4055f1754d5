//! The demo: subscriptions to the demo receivers, with emitters that send them events for a minute, so that somebody
//! who tries Postrider sees deliveries succeed, be tried again and be given up. There is one demo at a time, in a
//! tenant of its own. Whatever it has made is removed when its time is over, by whichever worker finds it. How the
//! receivers fare is read by [`crate::demo::cards`].

pub mod cards;

use std::net::SocketAddr;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result,
    access::audit::{self, Actor, NewEntry},
    emitter::{
        self,
        input::{EmitterInput, To},
    },
    id::{DemoId, SubscriptionId},
    queue::retry_policy::{RetryPolicyInput, decisions::Decision},
    subscription::{
        circuit::CircuitInput,
        flow_settings::{Choice, FlowInput},
        settings_input::{Checked, SettingsInput},
        store::Subscriptions,
    },
    text_enum::text_enum,
    trust::target_policy::TargetPolicy,
};

/// The tenant to which everything in a demo belongs.
pub const TENANT: &str = "demo";
/// Seconds for which a demo's emitters run.
pub const EMITS_SECONDS: u32 = 60;
/// Seconds until what a demo has made is removed: the last retries have come to their end, and been looked at.
pub const STAYS_SECONDS: u32 = 120;
/// The entry of a subscription's metadata by which it is known as one of a demo.
pub const METADATA_KEY: &str = "postrider_demo";
/// Minutes after a demo's end in which an attempt that was under way may still leave a dead letter.
const LATE_MINUTES: i32 = 10;
/// Days for which it is known that there was a demo.
const KEPT_DAYS: i32 = 7;

text_enum! {
    /// The demo receivers, in the order in which they are shown.
    pub enum Kind {
        /// It takes everything.
        Success = "success",
        /// It fails at every second request.
        Flaky = "flaky",
        /// It takes its time.
        Slow = "slow",
        /// It always fails.
        Failing = "failing",
    }
}

impl Kind {
    /// The path of the receiver.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Success => "/success",
            Self::Flaky => "/flaky",
            Self::Slow => "/slow",
            Self::Failing => "/failing",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Success => "Demo: takes everything",
            Self::Flaky => "Demo: fails now and then",
            Self::Slow => "Demo: is slow",
            Self::Failing => "Demo: always fails",
        }
    }

    fn event_type(self) -> &'static str {
        match self {
            Self::Success => "order.created",
            Self::Flaky => "invoice.paid",
            Self::Slow => "report.ready",
            Self::Failing => "user.updated",
        }
    }

    /// Events a second that the receiver gets.
    fn rate(self) -> f64 {
        match self {
            Self::Success => 3.0,
            Self::Flaky | Self::Slow | Self::Failing => 2.0,
        }
    }

    /// Seconds between the attempts of a delivery: few, so that something happens while one looks.
    fn delays_seconds(self) -> Vec<u32> {
        match self {
            // With every second attempt failing, hardly any delivery of the flaky receiver runs out of nine.
            Self::Success | Self::Flaky | Self::Slow => vec![1, 1, 1, 1, 1, 2, 2, 3],
            Self::Failing => vec![1],
        }
    }

    /// The slow receiver gets so little at a time that deliveries wait; the failing one opens its circuit in seconds,
    /// and no other does.
    fn flow(self) -> FlowInput {
        let circuit = match self {
            Self::Failing => CircuitInput {
                failures_in_a_row: Some(10),
                cooldown_seconds: Some(5),
                cooldown_max_seconds: Some(10),
                ..CircuitInput::default()
            },
            Self::Success | Self::Flaky | Self::Slow => {
                CircuitInput { failures_in_a_row: Some(100), failure_percent: Some(100), ..CircuitInput::default() }
            }
        };
        let max_in_flight = match self {
            Self::Slow => Some(2),
            Self::Success | Self::Flaky | Self::Failing => None,
        };
        FlowInput { circuit: Choice::On(circuit), max_in_flight, ..FlowInput::default() }
    }

    /// The settings of the subscription to this receiver.
    fn settings(self, id: DemoId, address: SocketAddr, policy: &TargetPolicy) -> Result<Checked> {
        let retry_policy = RetryPolicyInput {
            delays_seconds: Some(self.delays_seconds()),
            max_attempts: None,
            initial_seconds: None,
            factor: None,
            max_seconds: None,
            client_errors: Decision::Retry,
            decisions: [].into(),
        };
        let input = SettingsInput {
            target_url: format!("http://{address}{}", self.path()),
            event_types: vec![self.event_type().to_owned()],
            metadata_filter: [].into(),
            payload_filter: None,
            secret: None,
            name: Some(self.name().to_owned()),
            tenant_id: None,
            headers: [].into(),
            metadata: [(METADATA_KEY.to_owned(), id.to_string())].into(),
            retry_policy: Some(retry_policy),
            timeout_ms: None,
            signature_scheme: None,
            ingest_auth: None,
            ingest_signature: None,
            ingest_event_type_header: None,
            ingest_rate_limit_per_second: None,
            flow: self.flow(),
        };
        input.parse(policy, None)
    }

    /// What the receiver's events say.
    fn emitter(self) -> EmitterInput {
        let template = json!({"number": "{{number}}", "id": "{{id}}", "total": "{{random}}", "sent_at": "{{time}}"});
        EmitterInput {
            event_type: Some(self.event_type().to_owned()),
            rate_per_second: self.rate(),
            duration_seconds: Some(EMITS_SECONDS),
            template: Some(template),
        }
    }
}

/// A demo.
#[derive(Clone, Debug)]
pub struct Demo {
    /// Identifies the demo; its subscriptions name it in their metadata.
    pub id: DemoId,
    /// The receivers with the subscriptions that were made for them.
    pub receivers: Vec<(Kind, SubscriptionId)>,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// When its last event is made.
    pub emits_until: DateTime<Utc>,
    /// When what it has made is removed.
    pub ends_at: DateTime<Utc>,
    /// When that was removed; `None` while the demo is running.
    pub removed_at: Option<DateTime<Utc>>,
}

/// Starts a demo, unless one is running, and returns the one that is running now. `now` is for the first payloads only.
///
/// # Errors
/// Not found where there are no demo receivers; a conflict where the tenant of demos runs too many emitters.
pub async fn start(
    subscriptions: &Subscriptions,
    policy: &TargetPolicy,
    actor: Actor,
    now: DateTime<Utc>,
) -> Result<Demo> {
    let address = policy.demo.ok_or(Error::NotFound("demo"))?;
    remove_ended(subscriptions).await?;
    let mut transaction = subscriptions.pool.begin().await?;
    // Of two that are started at once, the second waits here and finds the first.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' demo', 0))")
        .fetch_one(&mut *transaction)
        .await?;
    if let Some(running) = newest(&mut transaction).await?.filter(|demo| demo.removed_at.is_none()) {
        return Ok(running);
    }
    let id = DemoId::new();
    let mut made = Vec::new();
    for kind in Kind::ALL {
        let Checked { settings, .. } = kind.settings(id, address, policy)?;
        let subscription = subscriptions.insert(&mut transaction, actor, TENANT, &settings, None).await?;
        let new = kind.emitter().parse(To::Subscription(&subscription), usize::MAX, now)?;
        emitter::insert(&mut transaction, actor, &new).await?;
        made.push(subscription.id.0);
    }
    sqlx::query!(
        "INSERT INTO demos (id, subscription_ids, started_at, ends_at)
         VALUES ($1, $2, now(), now() + make_interval(secs => $3))",
        id.0,
        &made,
        f64::from(STAYS_SECONDS)
    )
    .execute(&mut *transaction)
    .await?;
    note(&mut transaction, actor, "demo.started", id).await?;
    let started = newest(&mut transaction).await?;
    transaction.commit().await?;
    started.ok_or_else(|| Error::internal("a demo was not stored"))
}

/// The demo that is running, or else the last one that was; `None` where there was none of late.
pub async fn current(pool: &PgPool) -> Result<Option<Demo>> {
    newest(&mut *pool.acquire().await?).await
}

/// Ends the demo that is running, if there is one, and removes what it has made.
pub async fn stop(subscriptions: &Subscriptions, actor: Actor) -> Result<Option<Demo>> {
    let running = current(&subscriptions.pool).await?;
    if let Some(demo) = running.filter(|demo| demo.removed_at.is_none()) {
        remove(subscriptions, actor, &demo).await?;
    }
    current(&subscriptions.pool).await
}

/// Removes what demos have made whose time is over; returns how many there were. Then takes the dead letters off the
/// list that came of attempts which were under way at that time, and forgets old demos.
pub async fn remove_ended(subscriptions: &Subscriptions) -> Result<usize> {
    let pool = &subscriptions.pool;
    let ended = sqlx::query_as!(
        Row,
        "SELECT id, subscription_ids, started_at, ends_at, removed_at FROM demos
          WHERE removed_at IS NULL AND ends_at <= clock_timestamp() LIMIT 10"
    );
    let ended = ended.fetch_all(pool).await?;
    let count = ended.len();
    for row in ended {
        remove(subscriptions, Actor::Postrider, &row.into()).await?;
    }
    sqlx::query!(
        "DELETE FROM dead_letters
          WHERE subscription_id = ANY (ARRAY(SELECT unnest(subscription_ids) FROM demos
                                              WHERE removed_at > now() - make_interval(mins => $1)))",
        LATE_MINUTES
    )
    .execute(pool)
    .await?;
    sqlx::query!("DELETE FROM demos WHERE removed_at < now() - make_interval(days => $1)", KEPT_DAYS)
        .execute(pool)
        .await?;
    Ok(count)
}

/// Removes what a demo has made, step by step: where this ends in the middle, the next call goes on. Events, deliveries
/// and attempts stay until retention removes them; what still waits is canceled by the workers.
async fn remove(subscriptions: &Subscriptions, actor: Actor, demo: &Demo) -> Result<()> {
    let ids: Vec<Uuid> = demo.receivers.iter().map(|(_, id)| id.0).collect();
    let mut transaction = subscriptions.pool.begin().await?;
    emitter::stop_all_of(&mut transaction, actor, &ids).await?;
    transaction.commit().await?;
    for (_, id) in &demo.receivers {
        match subscriptions.delete(actor, *id).await {
            // Somebody else has deleted it.
            Ok(_) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let mut transaction = subscriptions.pool.begin().await?;
    sqlx::query!("DELETE FROM dead_letters WHERE subscription_id = ANY ($1)", &ids).execute(&mut *transaction).await?;
    let removed =
        sqlx::query!("UPDATE demos SET removed_at = clock_timestamp() WHERE id = $1 AND removed_at IS NULL", demo.id.0);
    if removed.execute(&mut *transaction).await?.rows_affected() == 1 {
        note(&mut transaction, actor, "demo.ended", demo.id).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn note(connection: &mut PgConnection, actor: Actor, action: &'static str, id: DemoId) -> Result<()> {
    let (tenant_id, target_id) = (Some(TENANT), id.to_string());
    audit::record(connection, NewEntry { tenant_id, actor, action, target_id, before: None, after: None }).await
}

struct Row {
    id: Uuid,
    subscription_ids: Vec<Uuid>,
    started_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
    removed_at: Option<DateTime<Utc>>,
}

impl From<Row> for Demo {
    fn from(row: Row) -> Self {
        Self {
            id: DemoId(row.id),
            receivers: Kind::ALL.into_iter().zip(row.subscription_ids.into_iter().map(SubscriptionId)).collect(),
            started_at: row.started_at,
            emits_until: row.started_at + TimeDelta::seconds(EMITS_SECONDS.into()),
            ends_at: row.ends_at,
            removed_at: row.removed_at,
        }
    }
}

async fn newest(connection: &mut PgConnection) -> Result<Option<Demo>> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, subscription_ids, started_at, ends_at, removed_at FROM demos ORDER BY id DESC LIMIT 1"
    );
    Ok(row.fetch_optional(connection).await?.map(Demo::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_every_receiver_are_valid_where_only_demo_receivers_are_allowed() {
        let address = "127.0.0.1:8089".parse().expect("an address");
        let policy = TargetPolicy { is_https_only: true, demo: Some(address), ..TargetPolicy::default() };
        for kind in Kind::ALL {
            let checked = kind.settings(DemoId::new(), address, &policy).expect("valid");
            let expected = format!("http://127.0.0.1:8089/{kind}");
            assert_eq!(checked.settings.target_url.as_str(), expected);
            kind.emitter().parse(To::Tenant(TENANT), 1 << 20, DateTime::UNIX_EPOCH).expect("valid");
        }
    }
}
