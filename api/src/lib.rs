//! The api: HTTP in. Ingest, the management API, and their description as an `OpenAPI` document with Swagger UI.
//!
//! One file for each noun of the URL; [`routes`] puts them together, [`problem`] is every answer that is not a
//! success, [`auth`] says who asks, [`access`] what they may reach.

pub mod access;
pub mod api_keys;
pub mod audit_log;
pub mod auth;
pub mod body;
pub mod body_room;
pub mod config;
pub mod connection;
pub mod dead_letters;
pub mod deliveries;
pub mod delivery_view;
pub mod document;
pub mod event_body;
pub mod events;
pub mod health;
pub mod ingest;
pub mod ingest_credential;
pub mod ingest_limits;
pub mod inline_deliveries;
pub mod list;
pub mod once;
pub mod pages;
pub mod problem;
pub mod publish;
pub mod replays;
pub mod retry_policy_body;
pub mod routes;
pub mod server;
pub mod signature_body;
pub mod subscription_body;
pub mod subscription_secrets;
pub mod subscription_view;
pub mod subscriptions;

use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use poem_openapi::Tags;
use postrider_core::{
    api_key::ApiKeyCache,
    changes::{self, Change},
    database::Session,
    intake::Intake,
    network::TargetPolicy,
    seal::Keyring,
    subscription::Subscription,
    subscription_cache::SubscriptionCache,
    subscriptions::Subscriptions,
    target_url::TargetUrl,
};
use sqlx::PgPool;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{auth::AdminKey, config::Config, ingest_limits::IngestLimits, once::KeyTtl, problem::ApiError};

/// Connections for the management API, the cache and its listener.
const MANAGEMENT_CONNECTIONS_MAX: u32 = 10;

/// Connections that store inline deliveries.
const INLINE_CONNECTIONS_MAX: u32 = 4;
/// How often it is written down when API keys were last used.
const KEY_USES_EVERY: Duration = Duration::from_secs(30);

/// What the routes work with.
#[derive(Clone)]
pub struct App {
    pub(crate) pool: PgPool,
    /// Stores inline deliveries.
    pub(crate) inline: PgPool,
    pub(crate) intake: Intake,
    pub(crate) cache: SubscriptionCache,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) target_policy: TargetPolicy,
    pub(crate) admin_key: AdminKey,
    pub(crate) keys: ApiKeyCache,
    pub(crate) limits: IngestLimits,
    pub(crate) keyring: Keyring,
    pub(crate) key_ttl: KeyTtl,
    pub(crate) payload_bytes_max: usize,
    pub(crate) metrics: Option<PrometheusHandle>,
}

/// Chapters of the `OpenAPI` document.
#[derive(Tags)]
pub(crate) enum Tag {
    /// Events in.
    Ingest,
    /// Who wants which events where.
    Subscriptions,
    /// Publishing events, and what was accepted.
    Events,
    /// What is owed to whom, and every attempt at it.
    Deliveries,
    /// Deliveries that were given up.
    #[oai(rename = "Dead letters")]
    DeadLetters,
    /// A subscription's past, delivered again.
    Replays,
    /// Who may do what, for which tenant.
    #[oai(rename = "API keys")]
    ApiKeys,
    /// Who changed what.
    #[oai(rename = "Audit log")]
    AuditLog,
    /// Watching over the process.
    Health,
}

impl App {
    /// Connects everything; the handle is the intake's writer, which ends when all clones of the app are gone and
    /// what waited is stored.
    #[must_use]
    pub fn new(config: &Config, metrics: Option<PrometheusHandle>) -> (Self, JoinHandle<()>) {
        let pool = config.database.pool(Session::Management, MANAGEMENT_CONNECTIONS_MAX);
        let ingest = config.database.pool(Session::Ingest, 1);
        let wake = config.database.pool(Session::Ingest, 1);
        let subscriptions = Subscriptions::new(pool.clone(), config.keyring.clone());
        let (intake, writer) = Intake::start(ingest, wake, config.idempotency_key_ttl_seconds);
        let app = Self {
            cache: SubscriptionCache::new(subscriptions.clone()),
            keys: ApiKeyCache::new(pool.clone()),
            limits: IngestLimits::default(),
            pool,
            inline: config.database.pool(Session::Ingest, INLINE_CONNECTIONS_MAX),
            keyring: config.keyring.clone(),
            key_ttl: KeyTtl { seconds: config.idempotency_key_ttl_seconds },
            intake,
            subscriptions,
            target_policy: config.target_policy.clone(),
            admin_key: config.admin_key.clone(),
            payload_bytes_max: config.payload_bytes_max,
            metrics,
        };
        (app, writer)
    }
}

impl App {
    /// Drops what this process remembers of a subscription that it has changed, so that who made the change sees it at
    /// once; the others hear of it.
    pub(crate) async fn forget(&self, subscription: &Subscription) {
        let tenant_id = subscription.tenant_id.clone();
        self.cache.hear(&Change::Subscription { id: subscription.id.0, tenant_id }).await;
    }

    /// Judges where a target leads now, if it is a valid one; what else is wrong with it, the parsing tells.
    pub(crate) async fn vet(&self, target_url: &str) -> Result<(), ApiError> {
        match TargetUrl::parse(target_url, &self.target_policy) {
            Ok(target) => {
                let vetted = self.target_policy.vet(&target).await;
                vetted.map_err(|blocked| ApiError::invalid("target_url", blocked.to_string()))
            }
            Err(_) => Ok(()),
        }
    }
}

/// Runs a whole api process: migrations, partitions, routes; returns after a graceful stop.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config, metrics: Option<PrometheusHandle>, stop: CancellationToken) -> anyhow::Result<()> {
    config.database.migrate().await.context("the database could not be brought up to date")?;
    let listener = TcpListener::bind(&config.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", config.listen))?;
    println!("api ready on http://{}", listener.local_addr()?);
    serve(&config, listener, metrics, stop).await
}

/// Serves on a listener of the caller's, who may want to know the port before.
///
/// # Errors
/// When it cannot start.
pub async fn serve(
    config: &Config,
    listener: TcpListener,
    metrics: Option<PrometheusHandle>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (app, writer) = App::new(config, metrics);
    postrider_core::partition::ensure(&app.pool).await.context("partitions could not be created")?;
    let mut beside = JoinSet::new();
    let (cache, keys) = (app.cache.clone(), app.keys.clone());
    beside.spawn(changes::follow(app.pool.clone(), config.database.channel(changes::CHANNEL), move |change| {
        let (cache, keys) = (cache.clone(), keys.clone());
        async move {
            cache.hear(&change).await;
            keys.hear(&change).await;
        }
    }));
    beside.spawn(write_down_key_uses(app.keys.clone()));
    let keys = app.keys.clone();
    let routes = routes::routes(&app);
    drop(app);
    server::serve(listener, routes, config.connections_max, stop, config.shutdown_timeout).await;
    beside.shutdown().await;
    let _ = keys.write_down_uses().await;
    // What was still waiting to be stored is stored and answered before the process ends.
    let _ = tokio::time::timeout(config.shutdown_timeout, writer).await;
    Ok(())
}

async fn write_down_key_uses(keys: ApiKeyCache) {
    loop {
        tokio::time::sleep(KEY_USES_EVERY).await;
        if let Err(error) = keys.write_down_uses().await {
            tracing::warn!(?error, "when API keys were last used was not written down");
        }
    }
}
