//! `/demo`: everything at work for a minute, for those who try Postrider.

use chrono::{DateTime, Utc};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi, payload::Json};
use postrider_core::{
    announce::changes::Change,
    demo::{
        self, Demo, Kind, TENANT,
        cards::{self, Card, Light},
    },
};
use sqlx::PgPool;

use crate::{
    access::{
        Access,
        auth::{Key, Manage, Read},
    },
    app::{App, Tag},
    serve::problem::ApiError,
    subscriptions::flow_body::CircuitStateName,
};

/// The routes of `/demo`.
pub struct DemoApi(pub App);

/// How a demo stands: `none` where there was none in the last 7 days; `running` until what it has made is removed;
/// `ended` from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum DemoState {
    /// There was none.
    None,
    /// What it has made is there.
    Running,
    /// What it has made is removed.
    Ended,
}

/// How a demo receiver fares: `idle` where nothing was sent yet; `green` where all has arrived; `yellow` where
/// deliveries wait or are tried again; `red` where deliveries were given up, or the circuit is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "Light", rename = "DemoLight")]
pub enum LightName {
    /// Nothing was sent yet.
    Idle,
    /// All has arrived.
    Green,
    /// Deliveries wait, or are tried again.
    Yellow,
    /// Deliveries were given up, or the circuit is not closed.
    Red,
}

/// Which demo receiver it is: `success` takes everything, `flaky` fails at every second request, `slow` takes its time,
/// `failing` always fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "Kind", rename = "DemoReceiverKind")]
pub enum KindName {
    /// It takes everything.
    Success,
    /// It fails at every second request.
    Flaky,
    /// It takes its time.
    Slow,
    /// It always fails.
    Failing,
}

/// A demo receiver, and what came of its deliveries. Each count is at most 1000.
#[derive(Debug, Object)]
pub struct DemoReceiver {
    /// Which receiver it is.
    kind: KindName,
    /// The subscription that the demo has made for it.
    subscription_id: String,
    /// How it fares, in a word.
    light: LightName,
    /// The state of its circuit.
    circuit: CircuitStateName,
    /// Deliveries that it has taken.
    succeeded: u64,
    /// Deliveries that failed and wait for another attempt.
    retrying: u64,
    /// Deliveries that wait for their first attempt.
    waiting: u64,
    /// Deliveries that are being attempted.
    in_flight: u64,
    /// Deliveries that were given up.
    dead_letters: u64,
    /// Deliveries that were called off, as all that wait at the end of the demo are.
    canceled: u64,
}

/// The demo that is running, or else the last one.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Demo")]
pub struct DemoView {
    /// How it stands.
    state: DemoState,
    /// The demo's id, such as `dmo_0198c0de2f3a7b1c9d4e5f60718293a4`.
    id: Option<String>,
    /// When it was started (RFC 3339).
    started_at: Option<DateTime<Utc>>,
    /// When its last event is made (RFC 3339).
    emits_until: Option<DateTime<Utc>>,
    /// When what it has made is removed by itself (RFC 3339).
    ends_at: Option<DateTime<Utc>>,
    /// When that was removed; absent while the demo is running (RFC 3339).
    removed_at: Option<DateTime<Utc>>,
    /// The demo receivers and how they fare; empty where there was no demo.
    receivers: Vec<DemoReceiver>,
}

/// The answer to a request for a demo.
#[derive(Debug, ApiResponse)]
pub enum Begun {
    /// The demo runs. Where one was running already, this is that one.
    #[oai(status = 202)]
    Accepted(Json<DemoView>),
}

#[OpenApi(tag = "Tag::Demo")]
impl DemoApi {
    /// Run the demo
    ///
    /// Makes four subscriptions to the demo receivers in the tenant `demo`, and sends them events for a minute. What it
    /// has made is removed a minute later, or by `DELETE /demo`; its events and deliveries stay until retention removes
    /// them. There is one demo at a time. The answer is 404 unless the operator has switched the demo on
    /// (`POSTRIDER_DEMO=on`), and 403 for a key that is bound to another tenant.
    #[oai(path = "/demo", method = "post", operation_id = "start_demo")]
    async fn start(&self, key: Key<Manage>) -> Result<Begun, ApiError> {
        let started = self.0.start_demo(&key).await?;
        Ok(Begun::Accepted(Json(shown(&self.0.pool, Some(started)).await?)))
    }

    /// Get the demo
    ///
    /// How the receivers of the demo fare that is running, or else those of the last one.
    #[oai(path = "/demo", method = "get", operation_id = "get_demo")]
    async fn get(&self, key: Key<Read>) -> Result<Json<DemoView>, ApiError> {
        self.0.has_demo_for(&key)?;
        Ok(Json(shown(&self.0.pool, demo::current(&self.0.pool).await?).await?))
    }

    /// End the demo
    ///
    /// Removes what the demo has made. Where none is running, nothing changes.
    #[oai(path = "/demo", method = "delete", operation_id = "stop_demo")]
    async fn stop(&self, key: Key<Manage>) -> Result<Json<DemoView>, ApiError> {
        let stopped = self.0.stop_demo(&key).await?;
        Ok(Json(shown(&self.0.pool, stopped).await?))
    }
}

impl App {
    /// Whether there are demos, and the caller reaches their tenant.
    ///
    /// # Errors
    /// Not found where the operator has not switched them on; forbidden where the key is bound to another tenant.
    pub(crate) fn has_demo_for(&self, access: &Access) -> Result<(), ApiError> {
        if self.target_policy.demo.is_none() {
            return Err(ApiError::no_demo());
        }
        if access.reaches(TENANT) { Ok(()) } else { Err(ApiError::demo_of_another_tenant(TENANT)) }
    }

    /// Starts a demo, unless one is running.
    pub(crate) async fn start_demo(&self, access: &Access) -> Result<Demo, ApiError> {
        self.has_demo_for(access)?;
        let started = demo::start(&self.subscriptions, &self.target_policy, access.actor(), Utc::now()).await?;
        self.forget_demo(&started).await;
        Ok(started)
    }

    /// Ends the demo that is running; returns it, or else the last one.
    pub(crate) async fn stop_demo(&self, access: &Access) -> Result<Option<Demo>, ApiError> {
        self.has_demo_for(access)?;
        let stopped = demo::stop(&self.subscriptions, access.actor()).await?;
        if let Some(demo) = &stopped {
            self.forget_demo(demo).await;
        }
        Ok(stopped)
    }

    async fn forget_demo(&self, demo: &Demo) {
        for (_, id) in &demo.receivers {
            self.cache.invalidate(&Change::Subscription { id: id.0, tenant_id: TENANT.to_owned() }).await;
        }
    }
}

async fn shown(pool: &PgPool, demo: Option<Demo>) -> Result<DemoView, ApiError> {
    let Some(demo) = demo else {
        return Ok(DemoView {
            state: DemoState::None,
            id: None,
            started_at: None,
            emits_until: None,
            ends_at: None,
            removed_at: None,
            receivers: Vec::new(),
        });
    };
    let cards = cards::read(pool, &demo).await?;
    Ok(DemoView {
        state: if demo.removed_at.is_some() { DemoState::Ended } else { DemoState::Running },
        id: Some(demo.id.to_string()),
        started_at: Some(demo.started_at),
        emits_until: Some(demo.emits_until),
        ends_at: Some(demo.ends_at),
        removed_at: demo.removed_at,
        receivers: cards.iter().map(receiver).collect(),
    })
}

fn receiver(card: &Card) -> DemoReceiver {
    let counts = &card.counts;
    DemoReceiver {
        kind: card.kind.into(),
        subscription_id: card.subscription_id.to_string(),
        light: card.light.into(),
        circuit: card.circuit.into(),
        succeeded: counts.succeeded.unsigned_abs(),
        retrying: counts.retrying.unsigned_abs(),
        waiting: counts.waiting.unsigned_abs(),
        in_flight: counts.in_flight.unsigned_abs(),
        dead_letters: counts.dead_letters.unsigned_abs(),
        canceled: counts.canceled.unsigned_abs(),
    }
}
