//! What every route works with: connections, caches, keys and limits. They are put together once, when the process
//! starts.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use poem_openapi::Tags;
use postrider_core::{
    accept::Acceptor,
    access::api_key::ApiKeyCache,
    announce::changes::Change,
    database::Session,
    live::{hub::Hub, reporter::Reporter},
    queue::intake::Intake,
    subscription::{Subscription, cache::SubscriptionCache, store::Subscriptions},
    tally::Tally,
    trust::{seal::Keyring, target_policy::TargetPolicy, target_url::TargetUrl},
};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use traces::Traces;

use crate::{
    access::{auth::AdminKey, ingest_limits::IngestLimits},
    config::{Config, Dashboard},
    deliveries::export::Exports,
    serve::{idempotency::KeyTtl, problem::ApiError, public_url::PublicUrl},
    ui::environment::EnvironmentName,
};

/// Connections for the management API, for loading caches, and for listening to announcements of changes.
const MANAGEMENT_CONNECTIONS_MAX: u32 = 10;

/// Connections that read what the dashboard's pages show, so that pages and the management API do not wait for each
/// other. They are made when somebody looks.
const PAGE_CONNECTIONS_MAX: u32 = 4;

/// Connections that store inline deliveries, so that these do not wait for the management API.
const INLINE_CONNECTIONS_MAX: u32 = 4;
/// What every route works with; cloning it is cheap.
#[derive(Clone)]
pub struct App {
    pub(crate) pool: PgPool,
    /// Connections that read what the dashboard's pages show.
    pub(crate) pages: PgPool,
    /// Subscriptions, read over the connections of pages.
    pub(crate) page_subscriptions: Subscriptions,
    pub(crate) acceptor: Acceptor,
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
    pub(crate) exports: Exports,
    pub(crate) live: Arc<Hub>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) dashboard: Dashboard,
    pub(crate) environment: Option<EnvironmentName>,
    pub(crate) public_url: Option<PublicUrl>,
    pub(crate) traces: Traces,
    ingest: PgPool,
    wake: PgPool,
}

/// Chapters of the `OpenAPI` document. Their order is told in [`crate::serve::document`].
#[derive(Tags)]
pub(crate) enum Tag {
    /// Post any payload to one subscription by its URL. Providers such as GitHub and Stripe can post here.
    Ingest,
    /// A subscription says which events go to which URL, and how: filters, headers, signatures, retries.
    Subscriptions,
    /// Publish an event once. It is stored and reaches every subscription that wants it.
    Events,
    /// A delivery is one event owed to one subscription or URL. See how it stands and every attempt at it, retry it,
    /// cancel it, or deliver to a URL without a subscription.
    Deliveries,
    /// Deliveries that were given up: look at them, retry them, mark them resolved or forget them.
    #[oai(rename = "Dead letters")]
    DeadLetters,
    /// Do something with all deliveries that match a filter, at a rate: retry, cancel, replay, resolve or purge them.
    Jobs,
    /// Streams of sample events at a rate, for trying a receiver out.
    Emitters,
    /// Everything at work for a minute, where the operator has switched that on.
    Demo,
    /// What was accepted and what came of it, as totals and as series, and why attempts failed.
    Statistics,
    /// Keys say who may do what, for which tenant.
    #[oai(rename = "API keys")]
    ApiKeys,
    /// A link opens the dashboard of one tenant, without an account, until it expires.
    #[oai(rename = "Portal links")]
    PortalLinks,
    /// Who changed what, and when.
    #[oai(rename = "Audit log")]
    AuditLog,
    /// What happens just now, second by second.
    Live,
    /// Watch over the processes: which are running, liveness, readiness and metrics.
    Health,
}

impl App {
    /// Makes the pools, caches and limits of a process, and starts the writer that stores events. The handle is that
    /// writer's: it ends once all clones of the app are gone and all waiting events are stored. `traces` makes the
    /// spans of requests.
    #[must_use]
    pub fn new(config: &Config, metrics: Option<PrometheusHandle>, traces: Traces) -> (Self, JoinHandle<()>) {
        let pool = config.database.pool(Session::Management, MANAGEMENT_CONNECTIONS_MAX);
        let pages = config.database.pool(Session::Pages, PAGE_CONNECTIONS_MAX);
        let ingest = config.database.pool(Session::Ingest, 1);
        let wake = config.database.pool(Session::Ingest, 1);
        let subscriptions = Subscriptions::new(pool.clone(), config.keyring.clone());
        let reporter = Arc::<Reporter>::default();
        let tally = Arc::<Tally>::default();
        let ttl = config.idempotency_key_ttl_seconds;
        let (intake, writer) =
            Intake::start(ingest.clone(), wake.clone(), ttl, Arc::clone(&tally), Arc::clone(&reporter));
        let cache = SubscriptionCache::new(subscriptions.clone());
        let acceptor = Acceptor {
            pool: pool.clone(),
            inline: config.database.pool(Session::Ingest, INLINE_CONNECTIONS_MAX),
            cache: cache.clone(),
            intake,
            keyring: config.keyring.clone(),
            target_policy: config.target_policy.clone(),
            key_ttl_seconds: config.idempotency_key_ttl_seconds,
            payload_bytes_max: config.payload_bytes_max,
        };
        let app = Self {
            cache,
            keys: ApiKeyCache::new(pool.clone()),
            limits: IngestLimits::default(),
            pool,
            page_subscriptions: Subscriptions::new(pages.clone(), config.keyring.clone()),
            pages,
            dashboard: config.dashboard,
            environment: config.environment_name.clone(),
            public_url: config.public_url.clone(),
            traces,
            acceptor,
            keyring: config.keyring.clone(),
            key_ttl: KeyTtl { seconds: config.idempotency_key_ttl_seconds },
            subscriptions,
            target_policy: config.target_policy.clone(),
            admin_key: config.admin_key.clone(),
            payload_bytes_max: config.payload_bytes_max,
            metrics,
            exports: Exports::default(),
            live: Arc::default(),
            reporter,
            tally,
            ingest,
            wake,
        };
        (app, writer)
    }
}

impl App {
    /// All connections of this process, by what they are for.
    pub(crate) fn pools(&self) -> Vec<(&'static str, PgPool)> {
        let Self { pool, acceptor, ingest, wake, .. } = self;
        let pools = [("general", pool), ("inline", &acceptor.inline), ("ingest", ingest), ("wake", wake)];
        pools.into_iter().map(|(name, pool)| (name, pool.clone())).collect()
    }

    /// Drops what this process remembers of a subscription that it has just changed, so that the caller who changed it
    /// sees the change at once. Other processes learn of the change by its announcement.
    pub(crate) async fn forget(&self, subscription: &Subscription) {
        let tenant_id = subscription.tenant_id.clone();
        self.cache.invalidate(&Change::Subscription { id: subscription.id.0, tenant_id }).await;
    }

    /// Resolves the name of a valid target and refuses addresses that are not allowed. An invalid URL passes here,
    /// because parsing the rest of the request reports it together with all other mistakes.
    pub(crate) async fn vet(&self, target_url: &str) -> Result<(), ApiError> {
        match TargetUrl::parse(target_url, &self.target_policy) {
            Ok(target) => {
                let vetted = self.target_policy.vet(target.as_url()).await;
                vetted.map_err(|blocked| ApiError::invalid("target_url", blocked.to_string()))
            }
            Err(_) => Ok(()),
        }
    }
}
