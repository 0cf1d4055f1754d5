//! Hearing that a process should stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels the token at SIGTERM or SIGINT.
///
/// # Panics
/// When the process may not handle signals.
pub async fn cancel_on_signal(stop: CancellationToken) {
    let mut terminate = signal(SignalKind::terminate()).expect("a process may handle SIGTERM");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a process may handle SIGINT");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to stop");
    stop.cancel();
}
