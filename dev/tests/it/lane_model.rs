//! A model test of the lanes' state machine. Three sessions do at random what apis, workers, people and the janitor do,
//! with transactions that stay open, locks that are held, notifications and processes that are lost, and time that
//! passes. After every step the database holds exactly what it should, no delivery is in two hands, no worker rests
//! while it should not, and every invariant holds. In the end everything is delivered within the linger and a sweep.
//!
//! `PROPTEST_CASES` sets how many cases are tried, `PROPTEST_RNG_SEED` others than those of every day.

mod display;
mod ending;
mod flow;
mod ledger;
mod operation;
mod stage;
mod step;
mod worker;

use std::{collections::HashMap, fmt::Write, time::Duration};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use postrider_core::{
    database::INGEST_STATEMENT_TIMEOUT,
    delivery::inline::InlineDelivery,
    id::{DeliveryId, EventId, SubscriptionId},
    queue::{
        Report,
        accept::{NewDelivery, NewEvent},
    },
    trust::target_url::TargetUrl,
    upkeep::invariants::Violation,
};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use serde_json::json;
use uuid::Uuid;

use self::{
    flow::Running,
    ledger::{Lane, Ledger},
    operation::Operation,
    stage::{SESSIONS, Stage},
    step::{Action, Case, Commits, Ending, SUBSCRIPTIONS, Step},
    worker::{ModelWorker, report},
};
use crate::world::{id, uuid};

/// An invariant that a lane breaks for a second, by design, where the claim that visited it found its row locked.
const LATE: &str = "lane due later than its delivery";

/// Cases, where the environment does not say otherwise.
const CASES: u32 = 120;
/// The cases are the same each time.
const SEED: u64 = 2030;
/// Of the subscriptions, and of the lanes of inline deliveries: leases of 7 and of 35 seconds.
const TIMEOUTS_MS: [u32; SUBSCRIPTIONS] = [1000, 15_000];

#[test]
fn whatever_happens_nothing_is_lost_late_or_in_two_hands() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stage = runtime.block_on(Stage::new()).unwrap();
    let default = Config::default();
    let config = Config {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { CASES },
        rng_seed: if default.rng_seed == RngSeed::Random { RngSeed::Fixed(SEED) } else { default.rng_seed },
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..default
    };
    let ran = TestRunner::new(config).run(&step::case(), |case| {
        runtime.block_on(try_case(&stage, &case)).map_err(|why| TestCaseError::fail(format!("{why:#}")))
    });
    ran.unwrap_or_else(|why| panic!("{why}"));
    runtime.block_on(stage.world.finish());
}

/// Tries a case; where it fails, what has happened is part of the error.
async fn try_case(stage: &Stage, case: &Case) -> Result<()> {
    let mut model = Model::new(stage).await?;
    let tried = model.run(case).await;
    // Nothing of it stays behind, whatever happened.
    model.checks = Checks::Never;
    for session in 0..SESSIONS {
        let ended = model.end(session, Ending::Rollback).await;
        ended.or_else(|error| if tried.is_ok() { Err(error) } else { Ok(()) })?;
    }
    tried.with_context(|| {
        let mut told = "this has happened:\n".to_owned();
        for line in &model.trace {
            let _ = writeln!(told, "  {line}");
        }
        told
    })
}

/// A case under way.
pub struct Model<'s> {
    stage: &'s Stage,
    ledger: Ledger,
    sessions: Vec<Session>,
    subscriptions: Vec<SubscriptionId>,
    unsent: Unsent,
    /// Reports that have been written down.
    reported: Vec<Report>,
    trace: Vec<String>,
    checks: Checks,
    /// Whether some lanes are due later than their deliveries, as they may be.
    some_are_late: bool,
}

/// When the state of everything is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checks {
    Always,
    /// Not after the many looks with which the last worker finds nothing.
    WhenSomethingWasDone,
    Never,
}

/// A connection, and a worker that uses it.
struct Session {
    running: Option<Running>,
    worker: ModelWorker,
}

/// The wake-ups that the api owes the workers, as in `core/src/queue/waker.rs`.
#[derive(Clone, Debug, Default)]
pub struct Unsent {
    armed: bool,
    /// The lanes that were left alone, each with a delivery that was put there.
    unarmed: HashMap<Uuid, Uuid>,
    /// All deliveries that were stored since the last wake-up.
    stored: Vec<Uuid>,
}

impl Unsent {
    fn note_stored(&mut self, armed: &[Uuid], lane: Uuid, delivery: Uuid) {
        self.stored.push(delivery);
        self.armed |= !armed.is_empty();
        if !armed.contains(&lane) {
            self.unarmed.insert(lane, delivery);
        }
    }

    fn is_empty(&self) -> bool {
        !self.armed && self.unarmed.is_empty()
    }
}

impl<'s> Model<'s> {
    async fn new(stage: &'s Stage) -> Result<Self> {
        stage.reset().await?;
        let now = stage.instant(stage.now().await?);
        let session = || Session { running: None, worker: ModelWorker::new(now) };
        let mut ledger = Ledger::default();
        let mut subscriptions = Vec::new();
        for timeout_ms in TIMEOUTS_MS {
            let made = stage.world.subscribe("/success", json!({"timeout_ms": timeout_ms})).await;
            let subscription = SubscriptionId(uuid(&id(&made)));
            ledger.lanes.insert(subscription.0, Lane::new(Some(subscription), timeout_ms));
            subscriptions.push(subscription);
        }
        let sessions = (0..SESSIONS).map(|_| session()).collect();
        let (unsent, reported, trace) = (Unsent::default(), Vec::new(), Vec::new());
        let (checks, some_are_late) = (Checks::Always, false);
        Ok(Self { stage, ledger, sessions, subscriptions, unsent, reported, trace, checks, some_are_late })
    }

    async fn run(&mut self, case: &Case) -> Result<()> {
        for step in &case.steps {
            self.step(step).await?;
        }
        self.checks = Checks::WhenSomethingWasDone;
        self.finish(case).await
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Do { session, action, commits } => {
                self.end(*session, Ending::Commit).await?;
                // A lock that is let go at once would lock out nobody.
                let commits = if matches!(action, Action::Lock(_)) { Commits::Later } else { *commits };
                if self.sessions[*session].running.is_none() {
                    self.act(*session, action, commits).await?;
                }
            }
            Step::End { session, ending } => self.end(*session, *ending).await?,
            Step::Pass(time) => self.pass(*time).await?,
            Step::LoseWakeUps => self.unsent = Unsent::default(),
            Step::Crash { session } => {
                self.end(*session, Ending::Rollback).await?;
                let now = self.stage.now().await?;
                self.sessions[*session].worker = ModelWorker::new(self.stage.instant(now));
                self.note(now, format!("session {session}: the worker dies"));
            }
        }
        Ok(())
    }

    /// What ingest has not stored within its time is given up: the linger relies on it.
    async fn pass(&mut self, time: Duration) -> Result<()> {
        let then = self.stage.now().await? + time;
        for session in 0..SESSIONS {
            let is_late = self.sessions[session].running.as_ref().is_some_and(|running| match running.operation {
                Operation::Accept { .. } | Operation::AcceptInline { .. } => {
                    then - running.began > chrono::TimeDelta::from_std(INGEST_STATEMENT_TIMEOUT).expect("seconds")
                }
                _ => false,
            });
            if is_late {
                self.end(session, Ending::Rollback).await?;
            }
        }
        let now = self.stage.advance(time).await?;
        self.note(now, format!("{time:?} have passed"));
        self.check().await
    }

    async fn act(&mut self, session: usize, action: &Action, commits: Commits) -> Result<()> {
        let now = self.stage.now().await?;
        let mut reporting = Vec::new();
        let pick = |pick: &usize| {
            let ids: Vec<_> = self.ledger.rows.keys().collect();
            (!ids.is_empty()).then(|| DeliveryId(*ids[pick % ids.len()]))
        };
        let operation = match action {
            Action::Accept(events) => {
                let events = events.iter().map(|(lane, later)| {
                    let mut event = event(later.map(|later| now + later));
                    let id = DeliveryId::of(event.id);
                    event.deliveries.push(NewDelivery { id, subscription_id: self.subscriptions[*lane] });
                    event
                });
                Some(Operation::Accept { events: events.collect() })
            }
            Action::AcceptInline { lane, later } => {
                let event = Box::new(event(later.map(|later| now + later)));
                let id = DeliveryId::of(event.id);
                Some(Operation::AcceptInline { event, id, delivery: Box::new(inline(*lane)) })
            }
            Action::Look => {
                let look = self.sessions[session].worker.look(self.stage.instant(now));
                look.map(|look| Operation::Claim { look })
            }
            Action::Record(fates) => {
                let held = &mut self.sessions[session].worker.held;
                let mut reports: Vec<Report> = Vec::new();
                for (pick, fate) in fates {
                    // One delivery may stand in a batch only once: see `take_distinct` in the worker's recorder.
                    let is_new = |held: &&worker::Held| {
                        reports.iter().all(|report| report.delivery_id != held.claimed.delivery_id)
                    };
                    let place = pick % held.len().max(1);
                    if let Some(one) = held.get(place).filter(is_new) {
                        reports.push(report(&one.claimed, *fate));
                        reporting.push(held.remove(place));
                    }
                }
                (!reports.is_empty()).then_some(Operation::Record { reports })
            }
            Action::RecordAgain(pick) => {
                let report = self.reported.get(pick % self.reported.len().max(1)).cloned();
                report.map(|report| Operation::Record { reports: vec![report] })
            }
            Action::Wake => {
                let unsent = std::mem::take(&mut self.unsent);
                (!unsent.is_empty()).then_some(Operation::Wake { unsent })
            }
            Action::SetState { lane, change } => {
                Some(Operation::SetState { id: self.subscriptions[*lane], change: *change })
            }
            Action::Delete { lane } => Some(Operation::Delete { id: self.subscriptions[*lane] }),
            Action::Retry(which) => pick(which).map(|id| Operation::Retry { id }),
            Action::Cancel(which) => pick(which).map(|id| Operation::Cancel { id }),
            Action::Replay(which) => pick(which).map(|id| Operation::Replay { id }),
            Action::Lock(lane) => {
                let lane = self.ledger.lanes.keys().nth(*lane);
                lane.map(|lane| Operation::Lock { lane: *lane })
            }
            Action::Repair => Some(Operation::Repair),
        };
        match operation {
            Some(operation) => self.begin(session, operation, commits, reporting, now).await,
            None => Ok(()),
        }
    }

    /// What must hold at any time of what is committed.
    async fn check(&mut self) -> Result<()> {
        self.ledger.compare(&self.stage.deliveries().await?)?;
        let found = self.stage.violations().await?;
        let late = found.iter().filter(|violation| violation.violation == LATE).map(|violation| violation.id);
        let late: Vec<_> = late.collect();
        self.some_are_late = !late.is_empty();
        let late = if late.is_empty() { late } else { self.stage.not_due_soon(&late).await? };
        let is_wrong = |violation: &&Violation| match violation.violation.as_str() {
            // Nobody may have come by: that is seen to in the end.
            "lease long expired" => false,
            LATE => late.contains(&violation.id) && !self.ledger.may_be_late(violation.id),
            _ => true,
        };
        let wrong: Vec<_> = found.iter().filter(is_wrong).collect();
        ensure!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    }

    fn note(&mut self, at: DateTime<Utc>, what: impl std::fmt::Display) {
        self.trace.push(format!("{} {what}", at.format("%M:%S%.6f")));
    }
}

fn event(deliver_at: Option<DateTime<Utc>>) -> NewEvent {
    NewEvent {
        id: EventId::new(),
        tenant_id: "default".to_owned(),
        event_type: "a.b".parse().expect("an event type"),
        posted_to: None,
        content_type: "text/plain".to_owned(),
        payload: "x".into(),
        metadata: std::collections::BTreeMap::new(),
        external_id: None,
        ordering_key: None,
        deliver_at,
        expires_at: None,
        key: None,
        deliveries: Vec::new(),
    }
}

fn inline(lane: usize) -> InlineDelivery {
    InlineDelivery {
        target_url: TargetUrl::from_stored("https://receiver.example/").expect("a URL"),
        secrets: None,
        signature_scheme: postrider_core::trust::signature::SignatureScheme::default(),
        headers: postrider_core::subscription::settings::CustomHeaders::default(),
        retry_policy: postrider_core::queue::retry_policy::RetryPolicy::default(),
        timeout_ms: TIMEOUTS_MS[lane % TIMEOUTS_MS.len()],
    }
}
