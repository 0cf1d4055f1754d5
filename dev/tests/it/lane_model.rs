//! A model test of the lanes' state machine. Three sessions do at random what apis, workers, people and the janitor do,
//! with transactions that stay open, locks that are held, notifications and processes that are lost, and time that
//! passes. After every step the database holds exactly what it should, no delivery is in two hands, no worker rests
//! while it should not, and every invariant holds. In the end everything is delivered within the linger and a sweep.
//!
//! The cases are the same in every run. `POSTRIDER_MODEL_CASES` sets how many are tried, `POSTRIDER_MODEL_SEED`, a
//! number, tries others. A case that fails is shrunk, and the failure tells step by step what has happened in it.

mod display;
mod ending;
mod flow;
mod ledger;
mod operation;
mod stage;
mod step;
mod worker;

use std::{fmt::Write, time::Duration};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use postrider_core::{
    database::INGEST_STATEMENT_TIMEOUT,
    delivery::inline::InlineDelivery,
    event::new_event::NewEvent,
    id::{DeliveryId, SubscriptionId},
    queue::{Report, accept::LeftAlone, retry_policy::RetryPolicy},
    subscription::settings::{CustomHeaders, Timeout},
    trust::{signature::SignatureScheme, target_url::TargetUrl},
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

/// Cases, where `POSTRIDER_MODEL_CASES` does not say otherwise.
const CASES: u64 = 120;
/// What the cases are drawn from, where `POSTRIDER_MODEL_SEED` does not say otherwise.
const SEED: u64 = 2030;
/// Of the subscriptions, and of the lanes of inline deliveries: leases of 7 and of 35 seconds.
const TIMEOUTS_MS: [u32; SUBSCRIPTIONS] = [1000, 15_000];

#[test]
fn whatever_happens_nothing_is_lost_late_or_in_two_hands() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stage = runtime.block_on(Stage::new()).unwrap();
    let config = Config {
        cases: number("POSTRIDER_MODEL_CASES", CASES).try_into().unwrap(),
        rng_seed: RngSeed::Fixed(number("POSTRIDER_MODEL_SEED", SEED)),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let ran = TestRunner::new(config).run(&step::case(), |case| {
        runtime.block_on(try_case(&stage, &case)).map_err(|why| TestCaseError::fail(format!("{why:#}")))
    });
    ran.unwrap_or_else(|why| panic!("{why}"));
    runtime.block_on(stage.world.finish());
}

/// The number in a variable of the environment.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
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
}

/// Whether the state of everything is looked at after each transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checks {
    Always,
    /// The many transactions of the last worker are looked at together.
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
    /// How long the slowest transaction took that stored something.
    took: Duration,
    left_alone: LeftAlone,
    /// All deliveries that were stored since the last wake-up, each with its lane.
    stored: Vec<(Uuid, Uuid)>,
}

impl Unsent {
    fn note_stored(&mut self, armed: &[Uuid], took: Duration, left_alone: LeftAlone) {
        self.armed |= !armed.is_empty();
        self.took = self.took.max(took);
        self.left_alone.extend(left_alone);
    }

    /// Takes back what could not be sent.
    fn note_again(&mut self, unsent: Self) {
        self.armed |= unsent.armed;
        self.took = self.took.max(unsent.took);
        for (lane, delivery) in unsent.left_alone {
            self.left_alone.entry(lane).or_insert(delivery);
        }
        self.stored.extend(unsent.stored);
    }

    fn is_empty(&self) -> bool {
        !self.armed && self.left_alone.is_empty()
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
            ledger.lanes.insert(subscription.0, Lane::new(Some(subscription), timeout(timeout_ms)));
            subscriptions.push(subscription);
        }
        let sessions = (0..SESSIONS).map(|_| session()).collect();
        let (unsent, reported, trace) = (Unsent::default(), Vec::new(), Vec::new());
        Ok(Self { stage, ledger, sessions, subscriptions, unsent, reported, trace, checks: Checks::Always })
    }

    async fn run(&mut self, case: &Case) -> Result<()> {
        for step in &case.steps {
            self.step(step).await?;
        }
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

    /// Before time passes, transactions end that would not have lasted so long: what ingest has not stored within its
    /// time is given up, because the linger relies on that; and whoever holds a lane that somebody waits for who has
    /// little patience is done first.
    async fn pass(&mut self, time: Duration) -> Result<()> {
        let then = self.stage.now().await? + time;
        for session in 0..SESSIONS {
            if self.sessions[session].is_ingest_since_before(then - INGEST_STATEMENT_TIMEOUT) {
                self.end(session, Ending::Rollback).await?;
            }
        }
        while self.sessions.iter().any(|session| session.loses_patience_by(then)) {
            let holder = self.sessions.iter().position(Session::is_at_gate);
            self.end(holder.context("they wait for each other")?, Ending::Commit).await?;
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
                    event.deliver_to([self.subscriptions[*lane]]);
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
            Action::ArmNoted => Some(Operation::ArmNoted),
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
        // A lease may long have expired because nobody has come by: that is seen to in the end.
        let is_wrong = |violation: &&Violation| violation.violation != "lease long expired";
        let wrong: Vec<_> = found.iter().filter(is_wrong).collect();
        ensure!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    }

    fn note(&mut self, at: DateTime<Utc>, what: impl std::fmt::Display) {
        self.trace.push(format!("{} {what}", at.format("%M:%S%.6f")));
    }
}

fn event(deliver_at: Option<DateTime<Utc>>) -> NewEvent {
    let event_type = "a.b".parse().expect("an event type");
    NewEvent { deliver_at, ..NewEvent::new("default".to_owned(), event_type, "text/plain".to_owned(), "x".into()) }
}

fn timeout(ms: u32) -> Timeout {
    Timeout::parse(ms).expect("a timeout")
}

fn inline(lane: usize) -> InlineDelivery {
    InlineDelivery {
        target_url: TargetUrl::from_stored("https://receiver.example/").expect("a URL"),
        secrets: None,
        signature_scheme: SignatureScheme::default(),
        headers: CustomHeaders::default(),
        retry_policy: RetryPolicy::default(),
        timeout: timeout(TIMEOUTS_MS[lane % TIMEOUTS_MS.len()]),
    }
}
