//! The api takes HTTP requests: ingest, the management API, and its `OpenAPI` document with Swagger UI.
//!
//! There is one file for each noun of the URL. [`routes`] puts them together, [`serve::problem`] makes every answer
//! that is not a success, [`access::auth`] finds out who calls, and [`access`] decides what the caller may reach.

pub mod access;
pub mod api_keys;
pub mod app;
pub mod audit_log;
pub mod config;
pub mod counts;
pub mod dead_letters;
pub mod deliveries;
pub mod demo;
pub mod emitters;
pub mod events;
pub mod health;
pub mod jobs;
pub mod live;
pub mod portal_links;
pub mod processes;
pub mod replays;
pub mod routes;
pub mod serve;
pub mod stats;
pub mod subscriptions;
pub mod tenants;
pub mod ui;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use postrider_core::{
    access::api_key::ApiKeyCache,
    announce::{
        changes,
        notify::{Channel, Notice, listen},
    },
    live::{LIVE_CHANNEL, WATCH_CHANNEL},
    process::{
        gauges,
        heartbeat::{Heartbeat, ProcessKind},
        run::{revived, work_with},
    },
    upkeep,
};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use traces::Traces;

use crate::{app::App, config::Config, serve::server};

/// How often the times at which API keys were last used are written to the database.
const KEY_USES_EVERY: Duration = Duration::from_secs(30);

/// Runs an api process: it brings the schema up to date, makes partitions, serves, and returns after a graceful stop.
///
/// # Errors
/// When the database cannot be brought up to date, the address is taken, or the writer of events breaks down.
pub async fn run(config: Config, metrics: Option<PrometheusHandle>, stop: CancellationToken) -> anyhow::Result<()> {
    upkeep::bring_up_to_date(&config.database).await.context("the database could not be brought up to date")?;
    counts::begin();
    let listener = TcpListener::bind(&config.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", config.listen))?;
    println!("api ready on http://{}", listener.local_addr()?);
    serve(&config, listener, metrics, stop).await
}

/// Serves on a listener that the caller has opened, so that the caller can know its port beforehand.
///
/// # Errors
/// When the writer of events breaks down: without it, no event is accepted. When spans are to be exported and cannot
/// be.
pub async fn serve(
    config: &Config,
    listener: TcpListener,
    metrics: Option<PrometheusHandle>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (app, writer) = App::new(config, metrics, Traces::start(&config.traces)?);
    serve_with(config, app, writer, listener, stop).await
}

/// Serves with the app's writer of events.
async fn serve_with(
    config: &Config,
    app: App,
    mut writer: JoinHandle<()>,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut beside = JoinSet::new();
    let (cache, keys) = (app.cache.clone(), app.keys.clone());
    let (live, reporter) = (Arc::clone(&app.live), Arc::clone(&app.reporter));
    let pool = app.pool.clone();
    let names = [changes::CHANNEL, WATCH_CHANNEL, LIVE_CHANNEL].map(|name| config.database.channel(name));
    beside.spawn(revived("listening", move || {
        let (cache, keys) = (cache.clone(), keys.clone());
        let (live, told, reporter) = (Arc::clone(&live), Arc::clone(&live), Arc::clone(&reporter));
        let ending = Arc::clone(&live);
        let [changes, watch, reports] = names.clone();
        let (changes, tell) = changes::follow(changes, move |change| {
            let (cache, keys, ending) = (cache.clone(), keys.clone(), Arc::clone(&ending));
            async move {
                cache.invalidate(&change).await;
                keys.invalidate(&change).await;
                ending.hear_change(&change);
            }
        });
        let hear = move |notice: &Notice<'_>| {
            live.hear_question(notice);
            reporter.hear(notice);
        };
        let watch = Channel { name: watch, on_notice: Box::new(hear) };
        let reports = Channel { name: reports, on_notice: Box::new(move |notice| told.hear_report(notice)) };
        let listening = listen(pool.clone(), vec![changes, watch, reports]);
        async move { _ = tokio::join!(listening, tell) }
    }));
    let (live, pool, channel) = (Arc::clone(&app.live), app.pool.clone(), config.database.channel(WATCH_CHANNEL));
    beside.spawn(revived("the live feed", move || {
        let (live, pool, channel) = (Arc::clone(&live), pool.clone(), channel.clone());
        async move { live.run(pool, channel).await }
    }));
    let (reporter, pool) = (Arc::clone(&app.reporter), app.pool.clone());
    let channel = config.database.channel(LIVE_CHANNEL);
    beside.spawn(revived("reporting", move || {
        let (reporter, pool, channel) = (Arc::clone(&reporter), pool.clone(), channel.clone());
        async move { reporter.run(pool, channel).await }
    }));
    let (live, stopping) = (Arc::clone(&app.live), stop.clone());
    // Streams have no end of their own, so a stop would wait for them.
    beside.spawn(async move {
        stopping.cancelled().await;
        live.close();
    });
    let used = app.keys.clone();
    beside.spawn(revived("writing down uses of keys", move || write_down_key_uses(used.clone())));
    // These two write something at the end.
    let (ended, mut closing) = (CancellationToken::new(), JoinSet::new());
    closing.spawn(Arc::clone(&app.tally).run(app.pool.clone(), ended.clone()));
    let heartbeat = Heartbeat::new(app.pool.clone(), ProcessKind::Api, config.settings.clone());
    closing.spawn(heartbeat.run(|| None, ended.clone()));
    let (keys, traces) = (app.keys.clone(), app.traces.clone());
    let pools = app.pools();
    beside.spawn(revived("showing gauges", move || gauges::show(pools.clone())));
    let routes = routes::routes(&app);
    drop(app);
    let serving = server::serve(listener, routes, config.connections_max, stop, config.shutdown_timeout);
    work_with("the writer of events", &mut writer, serving).await?;
    beside.shutdown().await;
    let _ = keys.write_down_uses().await;
    // Events that were still waiting are stored and answered before the process ends.
    let _ = tokio::time::timeout(config.shutdown_timeout, writer).await;
    ended.cancel();
    let closed = async { while closing.join_next().await.is_some() {} };
    if tokio::time::timeout(config.shutdown_timeout, closed).await.is_err() {
        tracing::warn!("the last statistics could not be written");
    }
    traces.close().await;
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

#[cfg(test)]
mod tests {
    use postrider_core::process::config::Environment;

    use super::*;

    /// There is no database, so nothing ends by itself.
    #[tokio::test]
    async fn an_api_ends_with_an_error_when_its_writer_has_ended() {
        let env = Environment::new(|name| match name {
            "DATABASE_URL" => Some("postgres://nobody@127.0.0.1:1/nothing".to_owned()),
            "POSTRIDER_ENCRYPTION_KEYS" => Some(format!("k1:{}=", "A".repeat(43))),
            "POSTRIDER_ADMIN_KEY" => Some(format!("pr_{}", "x".repeat(24))),
            _ => None,
        });
        let config = Config::from(env).expect("a valid configuration");
        let (app, _writer) = App::new(&config, None, Traces::start(&config.traces).expect("traces are off"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let serving = serve_with(&config, app, tokio::spawn(async {}), listener, CancellationToken::new());
        let ended =
            tokio::time::timeout(Duration::from_secs(10), serving).await.expect("it ends without being told to");
        let error = ended.expect_err("whoever watches over the process must start it anew");
        assert!(error.to_string().contains("the writer of events broke down"), "{error}");
    }
}
