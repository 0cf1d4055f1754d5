//! A process's side of the live feed: whether somebody watches, and what is to be told in the present second.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::{
    announce::notify::Notice,
    database::{ANSWER_TIMEOUT, in_time},
    live::{
        ASKED_FOR, MESSAGE_BYTES_MAX, SCOPES_MAX, Scope,
        sample::{Sample, Sighting},
    },
};

/// How often a process reports while somebody watches.
const REPORTS_EVERY: Duration = Duration::from_secs(1);

/// What an api asks for: the scopes that its viewers look at, as text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) scopes: Vec<String>,
}

/// What a process tells: the counts and rows of one scope since its last report.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) scope: String,
    pub(super) sample: Sample,
}

/// Collects what a process does while somebody watches it.
pub struct Reporter {
    started: Instant,
    /// Milliseconds after `started` until which somebody watches; 0 while nobody does.
    watched_until: AtomicU64,
    asked: Notify,
    scopes: Mutex<BTreeMap<Scope, Watched>>,
}

struct Watched {
    until: Instant,
    sample: Sample,
}

impl Default for Reporter {
    /// A reporter that nobody watches.
    fn default() -> Self {
        Self {
            started: Instant::now(),
            watched_until: AtomicU64::new(0),
            asked: Notify::new(),
            scopes: Mutex::default(),
        }
    }
}

impl Reporter {
    /// Whether somebody watches just now. It is cheap, so that it may be asked for each delivery.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        let until = self.watched_until.load(Ordering::Relaxed);
        until > 0 && self.now() < until
    }

    /// Notes what has happened to a delivery, where somebody watches.
    pub fn note(&self, seen: &Sighting<'_>) {
        if !self.is_watched() {
            return;
        }
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, watched) in scopes.iter_mut().filter(|(scope, _)| scope.has(seen.tenant_id, seen.subscription_id)) {
            watched.sample.add(seen);
        }
    }

    /// Takes note of a question; call it for each notice on [`crate::live::WATCH_CHANNEL`].
    pub fn hear(&self, notice: &Notice<'_>) {
        let Notice::Notification(payload) = notice else { return };
        let Ok(question) = serde_json::from_str::<Question>(payload) else { return };
        let until = Instant::now() + ASKED_FOR;
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        for scope in question.scopes.iter().filter_map(|text| text.parse().ok()) {
            if let Some(watched) = scopes.get_mut(&scope) {
                watched.until = until;
            } else if scopes.len() < SCOPES_MAX {
                scopes.insert(scope, Watched { until, sample: Sample::default() });
            }
        }
        self.watched_until.store(self.now() + millis(ASKED_FOR), Ordering::Relaxed);
        self.asked.notify_one();
    }

    /// Reports once a second while somebody watches, on this channel of the database.
    pub async fn run(&self, pool: PgPool, channel: String) {
        loop {
            if !self.is_watched() {
                self.watched_until.store(0, Ordering::Relaxed);
                self.scopes.lock().unwrap_or_else(PoisonError::into_inner).clear();
                self.asked.notified().await;
            }
            tokio::time::sleep(REPORTS_EVERY).await;
            for message in self.messages() {
                if let Err(error) = in_time(ANSWER_TIMEOUT, notify(&pool, &channel, &message)).await {
                    tracing::debug!(%error, "a report to the live feed was not sent");
                    break;
                }
            }
        }
    }

    /// What is to be told since the last call, a message for each scope in which something happened.
    fn messages(&self) -> Vec<String> {
        let now = Instant::now();
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.retain(|_, watched| watched.until > now);
        let told = scopes.iter_mut().filter(|(_, watched)| !watched.sample.is_empty());
        told.map(|(scope, watched)| message(scope, std::mem::take(&mut watched.sample))).collect()
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

/// Sends one notification by a statement of its own.
pub(super) async fn notify(pool: &PgPool, channel: &str, message: &str) -> crate::Result<()> {
    sqlx::query!("SELECT pg_notify($1, $2)", channel, message).execute(pool).await?;
    Ok(())
}

/// The report as a notification, which may have to go without its oldest rows: event types and tenants can be long.
fn message(scope: &Scope, sample: Sample) -> String {
    let mut report = Report { scope: scope.to_string(), sample };
    loop {
        let text = serde_json::to_string(&report).expect("a report is JSON");
        if text.len() <= MESSAGE_BYTES_MAX || report.sample.rows.is_empty() {
            return text;
        }
        let half = report.sample.rows.len().div_ceil(2);
        report.sample.rows.drain(..half);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::live::Topic;

    fn see(reporter: &Reporter, tenant_id: &str) {
        reporter.note(&Sighting {
            topic: Topic::Queued,
            delivery_id: Uuid::now_v7(),
            event_id: Uuid::now_v7(),
            subscription_id: None,
            tenant_id,
            event_type: &"long".repeat(100),
            attempt: None,
            status_code: None,
            error_kind: None,
            duration: None,
        });
    }

    #[test]
    fn nothing_is_collected_before_somebody_asks() {
        let reporter = Reporter::default();
        see(&reporter, "a");
        assert!(!reporter.is_watched());
        for text in ["", "nonsense", "{}", r#"{"scopes": 1}"#] {
            reporter.hear(&Notice::Notification(text));
        }
        assert!(!reporter.is_watched());
        reporter.hear(&Notice::Notification(r#"{"scopes": ["t a", "*", "?"]}"#));
        assert!(reporter.is_watched());
        assert_eq!(reporter.messages(), Vec::<String>::new(), "nothing has happened since");
        see(&reporter, "a");
        see(&reporter, "b");
        let told: Vec<Report> =
            reporter.messages().iter().map(|text| serde_json::from_str(text).expect("a report")).collect();
        let counts: Vec<_> = told.iter().map(|report| (report.scope.as_str(), report.sample.seen())).collect();
        assert_eq!(counts, [("*", 2), ("t a", 1)]);
        assert_eq!(reporter.messages(), Vec::<String>::new(), "it is told once");
    }

    #[test]
    fn a_message_is_short_enough_whatever_its_rows_are() {
        let reporter = Reporter::default();
        reporter.hear(&Notice::Notification(r#"{"scopes": ["*"]}"#));
        for _ in 0..50 {
            see(&reporter, "a");
        }
        let [message] = &reporter.messages()[..] else { panic!("one scope") };
        assert!(message.len() <= MESSAGE_BYTES_MAX, "{}", message.len());
        let report: Report = serde_json::from_str(message).expect("a report");
        assert_eq!(report.sample.seen(), 50);
        assert!(!report.sample.rows.is_empty());
    }

    #[test]
    fn scopes_are_bounded() {
        let reporter = Reporter::default();
        let scopes: Vec<_> = (0..2 * SCOPES_MAX).map(|number| format!("t {number}")).collect();
        reporter.hear(&Notice::Notification(&serde_json::to_string(&Question { scopes }).expect("JSON")));
        assert_eq!(reporter.scopes.lock().expect("nobody panics").len(), SCOPES_MAX);
    }
}
