//! The worker: it claims due deliveries, sends them, and records the outcomes. Several workers share one database and
//! know nothing of each other.
//!
//! The way of the data: [`dispatcher`] claims, [`starter`] has the events read, [`deliver`] describes the life of one
//! delivery, [`sender`] makes the request over [`connections`], [`recorder`] writes the outcome down. Beside them,
//! [`fan_out`] makes deliveries of events that were published by SQL, the steps of jobs and the events of emitters, and
//! the [`janitor`] keeps the database in order.

pub mod claims;
pub mod commands;
pub mod config;
pub mod connections;
pub mod counts;
pub mod deliver;
pub mod demo_receivers;
pub mod dispatcher;
pub mod drain;
pub mod fan_out;
pub mod health;
pub mod janitor;
pub mod observers;
pub mod pacer;
pub mod payloads;
pub mod phases;
pub mod places;
pub mod rebuild_stats;
pub mod recorder;
pub mod sender;
pub mod spans;
pub mod starter;
pub mod wake;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use poem::listener::{Acceptor, Listener, TcpListener};
use postrider_core::{
    announce::{
        changes,
        notify::{Channel, listen},
    },
    database::Session,
    delivery::outbox,
    live::{LIVE_CHANNEL, WATCH_CHANNEL},
    process::{
        gauges,
        heartbeat::{Heartbeat, ProcessKind},
        run::{revived, work_with},
    },
    queue::{Report, WAKE_CHANNEL},
    subscription::{cache::SubscriptionCache, store::Subscriptions},
    tally::Tally,
    upkeep,
};
use sqlx::PgPool;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use traces::Traces;

use crate::{
    config::Config,
    deliver::Courier,
    dispatcher::Dispatcher,
    fan_out::FanOut,
    observers::Observers,
    payloads::{PAYLOAD_BYTES_MAX, Payloads},
    places::{Place, Places},
    sender::Sender,
    starter::{READINGS_MAX, Starter},
    wake::Wake,
};

/// Connections for reading subscriptions, for the janitor's duties, for listening and for health checks.
pub(crate) const GENERAL_CONNECTIONS_MAX: u32 = 10;

/// Connections that make deliveries: one for published events, one for jobs, one for emitters, one for wake-ups.
const FAN_OUT_CONNECTIONS_MAX: u32 = 4;

/// Connections that read large payloads, so that they keep no claim waiting.
const PAYLOAD_CONNECTIONS_MAX: u32 = 2;

/// How long a connection to the health server may be silent before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// A worker with its connections, which does not run yet.
pub struct Worker {
    config: Config,
    general: PgPool,
    claims: PgPool,
    records: PgPool,
    fan_outs: PgPool,
    courier: Courier,
    observers: Observers,
}

impl Worker {
    /// Prepares a worker; it connects to the database when it runs.
    ///
    /// # Errors
    /// When the machine has no usable TLS trust store, or spans are to be exported and cannot be.
    pub fn new(config: Config) -> anyhow::Result<Self> {
        let general = config.database.pool(Session::Queue, GENERAL_CONNECTIONS_MAX);
        let claims = config.database.pool(Session::Hot, 1 + READINGS_MAX);
        let payloads = config.database.pool(Session::Hot, PAYLOAD_CONNECTIONS_MAX);
        let subscriptions = Subscriptions::new(general.clone(), config.keyring.clone());
        let observers = Observers::default();
        let courier = Courier {
            sender: Sender::new(config.target_policy.clone(), &config.authorities, config.connection_age_max)
                .context("the HTTP client cannot be set up")?,
            cache: SubscriptionCache::new(subscriptions.clone()),
            subscriptions,
            pool: general.clone(),
            keyring: config.keyring.clone(),
            payloads: Payloads::new(claims.clone(), payloads, PAYLOAD_BYTES_MAX),
            pacer: Arc::default(),
            observers: observers.clone(),
            traces: Traces::start(&config.traces)?,
            cut_off: CancellationToken::new(),
        };
        Ok(Self {
            claims,
            records: config.database.pool(Session::Hot, 1),
            fan_outs: config.database.pool(Session::FanOut, FAN_OUT_CONNECTIONS_MAX),
            general,
            courier,
            observers,
            config,
        })
    }

    /// Works until `stop` is canceled. Then attempts under way may finish within the configured time, the rest is given
    /// back to the queue, and this returns when everything is recorded.
    ///
    /// # Errors
    /// When the recorder ends: without it, every delivery would be made again and again.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let wake = Arc::new(Wake::default());
        let (outcomes, recorder) = self.start_recorder(&wake);
        self.run_with(wake, outcomes, recorder, stop).await
    }

    /// Works with this recorder, which takes the outcomes and wakes the dispatcher.
    async fn run_with(
        self,
        wake: Arc<Wake>,
        outcomes: mpsc::Sender<(Report, Place)>,
        mut recorder: JoinHandle<()>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let places = Arc::new(Places::new(self.config.concurrency as usize));
        let mut beside = self.start_beside(&wake, &places);
        // These two write something at the end.
        let (ended, mut closing) = (CancellationToken::new(), JoinSet::new());
        closing.spawn(Arc::clone(&self.observers.tally).run(self.general.clone(), ended.clone()));
        let settings = self.config.settings.clone();
        let heartbeat = Heartbeat::new(self.general.clone(), ProcessKind::Worker, settings);
        let busy = Arc::clone(&places);
        closing.spawn(heartbeat.run(move || Some(busy.load()), ended.clone()));

        let tasks = TaskTracker::new();
        let dispatcher = Dispatcher {
            pool: self.claims.clone(),
            starter: Starter::new(self.courier.clone(), Arc::clone(&places), outcomes, tasks.clone()),
            places,
            wake,
            stop,
        };
        work_with("the recorder", &mut recorder, Box::pin(dispatcher.run())).await?;

        tasks.close();
        tracing::info!(in_flight = tasks.len(), "stopping: waiting for what is in flight");
        if tokio::time::timeout(self.config.shutdown_timeout, tasks.wait()).await.is_err() {
            tracing::warn!(in_flight = tasks.len(), "out of time: the rest goes back to the queue");
            self.courier.cut_off.cancel();
            // Deliveries whose outcomes cannot be recorded, because the database is silent, are made again when their
            // leases expire.
            let _ = tokio::time::timeout(self.config.shutdown_timeout, tasks.wait()).await;
        }
        // All senders are gone by now, so the recorder ends when it has written the last outcome. If the database is
        // away, the leases expire instead.
        if tokio::time::timeout(self.config.shutdown_timeout, recorder).await.is_err() {
            tracing::error!("the last outcomes could not be recorded; their deliveries will be made again");
        }
        beside.shutdown().await;
        ended.cancel();
        let closed = async { while closing.join_next().await.is_some() {} };
        if tokio::time::timeout(self.config.shutdown_timeout, closed).await.is_err() {
            tracing::warn!("the last statistics could not be written");
        }
        self.courier.traces.close().await;
        Ok(())
    }

    fn start_recorder(&self, wake: &Arc<Wake>) -> (mpsc::Sender<(Report, Place)>, JoinHandle<()>) {
        // There is room for as many outcomes as places, so a task waits here only if the database does not answer.
        let (outcomes, received) = mpsc::channel(self.config.concurrency as usize);
        let observers = self.observers.clone();
        (outcomes, tokio::spawn(recorder::run(self.records.clone(), received, Arc::clone(wake), observers)))
    }

    fn start_beside(&self, wake: &Arc<Wake>, places: &Arc<Places>) -> JoinSet<()> {
        let database = &self.config.database;
        let mut beside = JoinSet::new();
        let fan_out = FanOut {
            pool: self.fan_outs.clone(),
            cache: self.courier.cache.clone(),
            wake: Arc::clone(wake),
            published: Arc::default(),
            tally: Arc::clone(&self.observers.tally),
        };
        let published = Arc::clone(&fan_out.published);
        let (pool, cache, rung) = (self.general.clone(), self.courier.cache.clone(), Arc::clone(wake));
        let reporter = Arc::clone(&self.observers.reporter);
        let names = [WAKE_CHANNEL, outbox::CHANNEL, changes::CHANNEL, WATCH_CHANNEL].map(|name| database.channel(name));
        beside.spawn(revived("listening", move || {
            let (cache, rung, published) = (cache.clone(), Arc::clone(&rung), Arc::clone(&published));
            let reporter = Arc::clone(&reporter);
            let [wake, outbox, changes, watch] = names.clone();
            let (changes, tell) = changes::follow(changes, move |change| {
                let cache = cache.clone();
                async move { cache.invalidate(&change).await }
            });
            let wake = Channel { name: wake, on_notice: Box::new(move |notice| rung.hear(notice)) };
            let outbox = Channel { name: outbox, on_notice: Box::new(move |_| published.notify_one()) };
            let watch = Channel { name: watch, on_notice: Box::new(move |notice| reporter.hear(notice)) };
            let listening = listen(pool.clone(), vec![wake, outbox, changes, watch]);
            async move { _ = tokio::join!(listening, tell) }
        }));
        let publishing = fan_out.clone();
        beside.spawn(revived("publishing", move || publishing.clone().publish()));
        let emitting = fan_out.clone();
        beside.spawn(revived("working on jobs", move || fan_out.clone().work_on_jobs()));
        beside.spawn(revived("emitting", move || emitting.clone().emit()));
        if let Some(address) = self.config.target_policy.demo {
            beside.spawn(revived("the demo receivers", move || demo_receivers::serve(address)));
        }
        let (pool, reporter) = (self.general.clone(), Arc::clone(&self.observers.reporter));
        let channel = database.channel(LIVE_CHANNEL);
        beside.spawn(revived("reporting", move || {
            let (pool, reporter, channel) = (pool.clone(), Arc::clone(&reporter), channel.clone());
            async move { reporter.run(pool, channel).await }
        }));
        let pools = self.pools();
        beside.spawn(revived("showing gauges", move || gauges::show(pools.clone())));
        let places = Arc::clone(places);
        beside.spawn(revived("showing places", move || places::show(Arc::clone(&places))));
        let (pool, config) = (self.general.clone(), self.config.clone());
        beside.spawn(revived("the janitor", move || janitor::run(pool.clone(), config.clone())));
        beside
    }

    fn pools(&self) -> Vec<(&'static str, PgPool)> {
        let Self { general, claims, records, fan_outs, courier, .. } = self;
        let pools = [("general", general), ("claims", claims), ("records", records), ("fan_outs", fan_outs)];
        let payloads = ("payloads", courier.payloads.connections());
        pools.into_iter().chain([payloads]).map(|(name, pool)| (name, pool.clone())).collect()
    }

    /// The subscriptions that this worker has in memory.
    #[must_use]
    pub fn cache(&self) -> &SubscriptionCache {
        &self.courier.cache
    }

    /// What this worker has counted for the statistics.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.observers.tally
    }

    /// The connections that make deliveries.
    #[must_use]
    pub fn fan_outs(&self) -> &PgPool {
        &self.fan_outs
    }

    /// The connections that anything may use.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.general
    }
}

/// Runs a whole worker process: migrations, health server, and work. It returns after a graceful stop.
///
/// # Errors
/// When the process cannot start, or the recorder panics.
pub async fn run(config: Config, metrics: Option<PrometheusHandle>, stop: CancellationToken) -> anyhow::Result<()> {
    upkeep::bring_up_to_date(&config.database).await.context("the database could not be brought up to date")?;
    counts::begin();
    let listen = config.listen.clone();
    let worker = Worker::new(config)?;
    let routes = health::routes(worker.general.clone(), metrics);
    let mut server = JoinSet::new();
    let mut address = "off".to_owned();
    if let Some(listen) = listen {
        let acceptor =
            TcpListener::bind(&listen).into_acceptor().await.with_context(|| format!("cannot listen on {listen}"))?;
        address = acceptor.local_addr().iter().map(ToString::to_string).collect();
        server.spawn(
            async move { poem::Server::new_with_acceptor(acceptor).idle_timeout(IDLE_TIMEOUT).run(routes).await },
        );
    }
    println!("worker ready, health and metrics on {}", address.trim_start_matches("socket://"));
    worker.run(stop).await
}

#[cfg(test)]
mod tests {
    use postrider_core::process::config::Environment;

    use super::*;

    /// There is no database, so nothing ends by itself.
    #[tokio::test]
    async fn a_worker_ends_with_an_error_when_its_recorder_has_ended() {
        let env = Environment::new(|name| match name {
            "DATABASE_URL" => Some("postgres://nobody@127.0.0.1:1/nothing".to_owned()),
            "POSTRIDER_ENCRYPTION_KEYS" => Some(format!("k1:{}=", "A".repeat(43))),
            _ => None,
        });
        let worker = Worker::new(Config::from(env).expect("a valid configuration")).expect("a usable machine");
        let (outcomes, _received) = mpsc::channel(1);
        let recorder = tokio::spawn(async {});
        let running = worker.run_with(Arc::default(), outcomes, recorder, CancellationToken::new());
        let ended =
            tokio::time::timeout(Duration::from_secs(10), running).await.expect("it ends without being told to");
        let error = ended.expect_err("whoever watches over the process must start it anew");
        assert!(error.to_string().contains("the recorder broke down"), "{error}");
    }
}
