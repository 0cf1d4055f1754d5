//! Logs and metrics of a process, both started once in its main function.

use std::{io::IsTerminal, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    process::{config::Environment, last_error::KeepLastError},
    tally::buckets::DURATION_BUCKETS,
};

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Logs the moment of a hop on the way of an event, or of all events, for `cargo dev bench trace`. It is logged only
/// where `POSTRIDER_LOG` has `postrider_hops=trace`, and costs next to nothing otherwise.
#[macro_export]
macro_rules! hop {
    ($hop:literal) => {
        ::tracing::trace!(target: "postrider_hops", hop = $hop)
    };
    ($hop:literal, $events:expr) => {
        if ::tracing::enabled!(target: "postrider_hops", ::tracing::Level::TRACE) {
            for event in $events {
                ::tracing::trace!(target: "postrider_hops", hop = $hop, event = %$crate::id::EventId(event));
            }
        }
    };
}

/// How often recorded metrics are condensed, so that they do not pile up in memory.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Starts logging to standard error, as `POSTRIDER_LOG` (a filter such as `info,worker=debug`) and
/// `POSTRIDER_LOG_FORMAT` say.
pub fn init_logs(env: &mut Environment) -> Option<()> {
    let filter = env.parse("POSTRIDER_LOG", "info,sqlx::postgres::notice=warn,poem::server=warn", |text| {
        EnvFilter::try_new(text).map_err(|error| error.to_string())
    });
    let format = env.parse("POSTRIDER_LOG_FORMAT", "text", |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be `text` or `json`".to_owned()),
    });
    let registry = tracing_subscriber::registry().with(filter?).with(KeepLastError);
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // A second call in one process changes nothing.
    let _ = match format? {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    Some(())
}

/// Starts recording metrics, and a task that condenses them even if nobody reads them. The handle renders the metrics
/// in the Prometheus text format.
///
/// # Panics
/// When the process records metrics already, or outside a runtime.
#[must_use]
pub fn init_metrics() -> PrometheusHandle {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(seconds, &DURATION_BUCKETS)
        .expect("there are buckets")
        .install_recorder()
        .expect("nothing has been recorded before");
    let kept = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            kept.run_upkeep();
        }
    });
    handle
}
