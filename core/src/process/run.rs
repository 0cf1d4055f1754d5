//! Runs one of our processes, from reading its environment to its exit code.

use std::{fmt::Display, process::ExitCode, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::process::{config::Environment, metrics, telemetry};

/// The exit code of a process whose configuration is wrong.
const EXIT_CONFIGURATION: u8 = 2;
/// How long to pause before a duty that panicked is started again.
const REVIVAL_PAUSE: Duration = Duration::from_secs(1);

/// Reads the configuration, starts logs and metrics, and runs until the work ends by itself or a signal stops it. If
/// the configuration is wrong, all mistakes go to standard error, and nothing is started.
pub async fn run<C, E: Display, F: Future<Output = Result<(), E>>>(
    parse: impl FnOnce(Environment) -> Result<C, Vec<String>>,
    work: impl FnOnce(C, Option<PrometheusHandle>, CancellationToken) -> F,
) -> ExitCode {
    let mut env = Environment::of_process();
    telemetry::init_logs(&mut env);
    // Every connection is a file descriptor, and shells often allow no more than 1024 of them.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of file descriptors could not be raised");
    }
    // The allocator asks for huge pages, of which an idle process fills little: they would double what it takes.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "transparent huge pages could not be switched off");
    }
    let config = match parse(env) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("configuration: {problem}");
            }
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    let stop = CancellationToken::new();
    tokio::spawn(cancel_on_signal(stop.clone()));
    match work(config, Some(metrics::init()), stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Cancels the token at SIGTERM or SIGINT.
async fn cancel_on_signal(stop: CancellationToken) {
    let mut terminate = signal(SignalKind::terminate()).expect("a process may handle SIGTERM");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a process may handle SIGINT");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("received the signal to stop");
    stop.cancel();
}

/// A task without which a process does nothing useful has ended.
#[derive(Debug, thiserror::Error)]
#[error("{name} broke down, and nothing works without it: {how}")]
pub struct BrokenDown {
    name: &'static str,
    how: String,
}

/// Works as long as the task `essential` does. Whoever ends it on purpose does so after the work.
///
/// # Errors
/// When the task ends before the work, panicked or not. The process must end then, so that whoever watches over it
/// starts it anew: the task's memory may be broken, so it is not simply started again.
pub async fn work_with<T>(
    name: &'static str,
    essential: &mut JoinHandle<()>,
    work: impl Future<Output = T>,
) -> Result<T, BrokenDown> {
    tokio::select! {
        done = work => Ok(done),
        ended = essential => {
            let how = ended.map_or_else(|error| error.to_string(), |()| "it ended".to_owned());
            Err(BrokenDown { name, how })
        }
    }
}

/// Runs a duty that should never end. If it panics, that is logged as an error, and it is started again after a pause.
pub async fn revived<F: Future<Output = ()> + Send + 'static>(name: &'static str, duty: impl Fn() -> F) {
    loop {
        let mut task = JoinSet::new();
        task.spawn(duty());
        if let Some(Err(error)) = task.join_next().await {
            tracing::error!(%error, duty = name, "a background duty panicked and is started again: please report this");
        }
        tokio::time::sleep(REVIVAL_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_duty_that_panics_is_started_again() {
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        let duty = revived("breaking down", move || {
            let counted = Arc::clone(&counted);
            async move {
                counted.fetch_add(1, Ordering::SeqCst);
                panic!("as the test wants");
            }
        });
        let started_again = async {
            while starts.load(Ordering::SeqCst) < 2 {
                tokio::time::sleep(REVIVAL_PAUSE / 10).await;
            }
        };
        tokio::select! {
            () = duty => panic!("it never ends"),
            again = tokio::time::timeout(REVIVAL_PAUSE * 10, started_again) => again.expect("it is started again"),
        }
    }

    #[tokio::test]
    async fn work_ends_with_an_error_when_its_essential_task_panics_or_just_ends() {
        let mut panicking = tokio::spawn(async { panic!("as the test wants") });
        let error =
            work_with("the recorder", &mut panicking, std::future::pending::<()>()).await.expect_err("it ended");
        let text = error.to_string();
        assert!(text.contains("the recorder broke down") && text.contains("as the test wants"), "{text}");

        let mut ending = tokio::spawn(async {});
        let error = work_with("the writer", &mut ending, std::future::pending::<()>()).await.expect_err("it ended");
        assert_eq!(error.to_string(), "the writer broke down, and nothing works without it: it ended");

        let mut living = tokio::spawn(std::future::pending());
        assert_eq!(work_with("the recorder", &mut living, async { 7 }).await.expect("it lives"), 7);
        living.abort();
    }
}
