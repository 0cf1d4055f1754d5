//! The logs of a process, started once in its main function.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::process::{config::Environment, last_error::KeepLastError};

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
