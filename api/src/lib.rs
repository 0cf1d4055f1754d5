//! The api: HTTP in. Ingest, the management API, and their description as an `OpenAPI` document with Swagger UI.
//!
//! One file for each noun of the URL; [`routes`] puts them together, [`problem`] is every answer that is not a
//! success, [`auth`] decides who may ask.

pub mod auth;
pub mod body;
pub mod config;
pub mod dead_letters;
pub mod deliveries;
pub mod events;
pub mod health;
pub mod ingest;
pub mod list;
pub mod problem;
pub mod routes;
pub mod subscription_body;
pub mod subscriptions;

use std::{str::FromStr, time::Duration};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem_openapi::Tags;
use postrider_core::{
    database::Session,
    intake::Intake,
    network::AddressPolicy,
    subscription::Subscriptions,
    subscription_cache::{self, SubscriptionCache},
};
use sqlx::PgPool;
use tokio::{net::TcpListener as TokioListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{auth::AdminKey, config::Config, problem::ApiError};

/// Connections for the management API, the cache and its listener.
const MANAGEMENT_CONNECTIONS_MAX: u32 = 10;

/// How long a connection may say nothing, in the middle of a request or between two.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// What the routes work with.
#[derive(Clone)]
pub struct App {
    pub(crate) pool: PgPool,
    pub(crate) intake: Intake,
    pub(crate) cache: SubscriptionCache,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) address_policy: AddressPolicy,
    pub(crate) admin_key: AdminKey,
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
    /// What was accepted.
    Events,
    /// What is owed to whom, and every attempt at it.
    Deliveries,
    /// Deliveries that were given up.
    #[oai(rename = "Dead letters")]
    DeadLetters,
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
        let (intake, writer) = Intake::start(ingest, wake);
        let app = Self {
            cache: SubscriptionCache::new(subscriptions.clone()),
            pool,
            intake,
            subscriptions,
            address_policy: config.address_policy.clone(),
            admin_key: config.admin_key.clone(),
            payload_bytes_max: config.payload_bytes_max,
            metrics,
        };
        (app, writer)
    }
}

/// Runs a whole api process: migrations, partitions, routes; returns after a graceful stop.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config, metrics: Option<PrometheusHandle>, stop: CancellationToken) -> anyhow::Result<()> {
    config.database.migrate().await.context("the database could not be brought up to date")?;
    let listener = TcpListener::bind(&config.listen).into_acceptor().await;
    let acceptor = listener.with_context(|| format!("cannot listen on {}", config.listen))?;
    let address: String = acceptor.local_addr().iter().map(ToString::to_string).collect();
    println!("api ready on http://{}", address.trim_start_matches("socket://"));
    serve(&config, acceptor, metrics, stop).await
}

/// Serves on a listener of the caller's; for tests, which want to know the port before.
///
/// # Errors
/// When the listener fails.
pub async fn serve_on(config: &Config, listener: TokioListener, stop: CancellationToken) -> anyhow::Result<()> {
    let acceptor = poem::listener::TcpAcceptor::from_tokio(listener)?;
    serve(config, acceptor, None, stop).await
}

async fn serve<A: Acceptor + 'static>(
    config: &Config,
    acceptor: A,
    metrics: Option<PrometheusHandle>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (app, writer) = App::new(config, metrics);
    postrider_core::partition::ensure(&app.pool).await.context("partitions could not be created")?;
    let changes = config.database.channel(subscription_cache::CHANNEL);
    let following = tokio::spawn(app.cache.clone().follow(app.pool.clone(), changes));
    let server = poem::Server::new_with_acceptor(acceptor).idle_timeout(IDLE_TIMEOUT);
    let routes = routes::routes(&app);
    drop(app);
    let timeout = Some(config.shutdown_timeout);
    server.run_with_graceful_shutdown(routes, async move { stop.cancelled().await }, timeout).await?;
    following.abort();
    // What was still waiting to be stored is stored and answered before the process ends.
    let _ = tokio::time::timeout(config.shutdown_timeout, writer).await;
    Ok(())
}

/// Reads an id from a path; what is not one cannot be found.
pub(crate) fn find<I: FromStr>(text: &str, what: &str) -> Result<I, ApiError> {
    text.parse().map_err(|_| ApiError::not_found(what))
}
