//! Makes the planned faults happen, and undoes them.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use hyper::StatusCode;
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    chaos::{
        database,
        fleet::{Fleet, Member, Order, fake_time},
        log::{Journal, Subscription},
        plan::{Kind, Planned, Victim},
        proxy::Proxy,
        receivers::{Behavior, Receivers},
    },
    client::Client,
    postgres::Postgres,
};

/// How long a request may take that pauses, resumes or changes a subscription.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often such a request is tried while faults go on.
const TRIES: usize = 5;
/// How long to wait between two tries.
const PAUSE: Duration = Duration::from_millis(300);
/// How long connections are delayed, at most and at least.
const DELAY_MS: (u32, u32) = (10, 300);
/// By how many minutes a clock is wrong, at most.
const MINUTES_MAX: i32 = 10;

/// Everything that faults may befall.
pub struct Stage {
    /// Where faults are written down.
    pub journal: Arc<Journal>,
    /// The processes.
    pub fleet: Fleet,
    /// The proxy before the database of those who publish by SQL.
    pub publishers: Proxy,
    /// The receivers.
    pub receivers: Receivers,
    /// The subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// The database.
    pub server: Arc<Postgres>,
    /// The key of the apis.
    pub key: String,
    /// Held by whoever stops or freezes the database.
    pub database_turn: Mutex<()>,
}

/// Makes all planned faults happen, each at its time, and returns when the last one is over.
pub async fn inject(stage: &Arc<Stage>, plan: &[Planned]) {
    let mut running = JoinSet::new();
    for planned in plan.iter().copied() {
        tokio::time::sleep(planned.at.saturating_sub(stage.journal.clock.now())).await;
        let stage = Arc::clone(stage);
        running.spawn(async move { stage.make(planned).await });
    }
    while running.join_next().await.is_some() {}
}

impl Stage {
    async fn make(&self, planned: Planned) {
        match planned.kind.victim() {
            Victim::Worker | Victim::Api => self.order(planned),
            Victim::Process => self.disturb(planned).await,
            Victim::Database => self.stop_database(planned).await,
            Victim::Subscription => self.befall_subscription(planned).await,
        }
    }

    /// Hands the fault to the supervisor of the process, which writes it down.
    fn order(&self, planned: Planned) {
        let Planned { kind, lasts, victim, amount, .. } = planned;
        let members = match kind.victim() {
            Victim::Worker => self.fleet.workers(),
            Victim::Api => self.fleet.apis(),
            Victim::Process | Victim::Database | Victim::Subscription => &self.fleet.members,
        };
        let order = if matches!(kind, Kind::WorkerFrozen | Kind::ProcessFrozen) {
            Order::Freeze(kind, lasts)
        } else if kind == Kind::ProcessStopped {
            Order::Terminate(lasts)
        } else if kind == Kind::ClockWrong {
            if fake_time().is_none() {
                return self.journal.skipped(kind);
            }
            let minutes = 1 + amount.cast_signed() % MINUTES_MAX;
            Order::SetClock(if amount % 2 == 0 { minutes } else { -minutes }, lasts)
        } else {
            Order::Kill(lasts)
        };
        // Where something is being done to that process already, another one takes its place.
        let (before, from_victim) = members.split_at(victim % members.len());
        if !from_victim.iter().chain(before).any(|member| member.order(order)) {
            self.journal.skipped(kind);
        }
    }

    /// Disturbs a process, or its connections to the database.
    async fn disturb(&self, planned: Planned) {
        let Planned { kind, lasts, victim, amount, .. } = planned;
        if matches!(kind, Kind::ProcessFrozen | Kind::ProcessStopped) {
            return self.order(planned);
        }
        let member = self.fleet.members.get(victim % (self.fleet.members.len() + 1));
        let (name, proxy) =
            member.map_or(("publishers", &self.publishers), |Member { name, proxy, .. }| (name.as_str(), &**proxy));
        let from = self.journal.clock.now();
        if kind == Kind::ConnectionsCut {
            proxy.cut();
        } else if kind == Kind::ConnectionsSwallowed {
            proxy.swallow();
        } else if kind == Kind::ConnectionsDelayed {
            let (shortest, longest) = DELAY_MS;
            proxy.delay(Duration::from_millis((shortest + amount % (longest - shortest)).into()));
            tokio::time::sleep(lasts).await;
            proxy.delay(Duration::ZERO);
        } else if kind == Kind::ConnectionsHeld {
            proxy.hold();
            tokio::time::sleep(lasts).await;
            proxy.let_go();
        } else {
            proxy.be_deaf();
            tokio::time::sleep(lasts).await;
            proxy.hear();
        }
        self.journal.happened(kind, name, from);
    }

    /// Stops, freezes or burdens the database. Only one of the first two happens at a time.
    async fn stop_database(&self, planned: Planned) {
        let Planned { kind, lasts, victim, .. } = planned;
        if kind == Kind::LongTransaction {
            let from = self.journal.clock.now();
            // Where the server goes away meanwhile, the transaction has been shorter.
            let _ = database::hold_transaction(&self.server, lasts).await;
            return self.journal.happened(kind, "database", from);
        }
        let Ok(_turn) = self.database_turn.try_lock() else { return self.journal.skipped(kind) };
        let from = self.journal.clock.now();
        let done = if kind == Kind::DatabaseCrashed {
            database::crash(&self.server, lasts).await
        } else if kind == Kind::SessionKilled {
            match database::kill_session(&self.server, victim) {
                Ok(true) => {
                    // The server notices the death at once, and takes no connection until it has recovered.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    database::is_back(&self.server).await;
                    Ok(())
                }
                Ok(false) => return self.journal.skipped(kind),
                Err(error) => Err(error),
            }
        } else {
            database::freeze(&self.server, lasts).await
        };
        if let Err(error) = done {
            self.journal.offence("the database comes back", format!("{error:#}"));
        }
        self.journal.happened(kind, "database", from);
    }

    async fn befall_subscription(&self, planned: Planned) {
        let Planned { kind, lasts, victim, .. } = planned;
        let place = victim % self.subscriptions.len();
        let subscription = &self.subscriptions[place];
        let path = |action: &str| format!("/subscriptions/sub_{}/{action}", subscription.id.simple());
        let from = self.journal.clock.now();
        let behavior = match kind {
            Kind::ReceiverFails => Some(Behavior::Fails),
            Kind::ReceiverBusy => Some(Behavior::Busy),
            Kind::ReceiverHangs => Some(Behavior::Hangs),
            Kind::ReceiverResets => Some(Behavior::Resets),
            _ => None,
        };
        if let Some(behavior) = behavior {
            self.receivers.behave(place, behavior);
            tokio::time::sleep(lasts).await;
            self.receivers.behave(place, Behavior::Well);
        } else if kind == Kind::LaneLocked {
            // Where the server goes away meanwhile, the lock was held for less long.
            let _ = database::lock_lane(&self.server, subscription.id, lasts).await;
        } else if kind == Kind::SecretReplaced {
            if self.post(&path("rotate-secret"), 1).await.is_err() {
                return self.journal.skipped(kind);
            }
        } else {
            if self.post(&path("pause"), TRIES).await.is_err() {
                return self.journal.skipped(kind);
            }
            tokio::time::sleep(lasts).await;
            // At the end of the run all are resumed once more.
            let _ = self.post(&path("resume"), TRIES).await;
        }
        self.journal.happened(kind, subscription.name.as_str(), from);
    }

    /// Posts without a body, to one api after the other, until the answer is a success.
    async fn post(&self, path: &str, tries: usize) -> Result<()> {
        let mut last = String::new();
        for nth in 0..tries {
            let apis = self.fleet.apis();
            let address = apis[nth % apis.len()].address.clone().unwrap_or_default();
            let client = Client { address, key: &self.key };
            match tokio::time::timeout(PATIENCE, client.try_post(path, &[], "")).await {
                Ok(Ok(answer)) if answer.status() == StatusCode::OK => return Ok(()),
                Ok(Ok(answer)) => last = format!("{}: {}", answer.status(), String::from_utf8_lossy(answer.body())),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => "no answer in time".clone_into(&mut last),
            }
            tokio::time::sleep(PAUSE).await;
        }
        anyhow::bail!("{path}: {last}")
    }

    /// Ends everything that was done to anybody.
    ///
    /// # Errors
    /// When a process does not start, or a subscription cannot be resumed.
    pub async fn calm(&self) -> Result<()> {
        self.receivers.calm();
        self.publishers.calm();
        self.fleet.calm().await?;
        for subscription in &self.subscriptions {
            let path = format!("/subscriptions/sub_{}/resume", subscription.id.simple());
            self.post(&path, TRIES * 10).await?;
        }
        Ok(())
    }
}
