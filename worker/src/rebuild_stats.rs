//! `worker rebuild-stats`: counts statistics again that a killed worker or api took with it.

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use postrider_core::{
    database::Session,
    stats::recount::{recount, whole_hours},
    upkeep,
};

use crate::config::Config;

/// Running processes have written their sums after this time, which is longer than they ever wait. Before that, what
/// they have in memory would be counted twice.
const WRITTEN_AFTER: TimeDelta = TimeDelta::minutes(10);

/// The span that is counted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    from: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Span {
    /// Reads the two times, as RFC 3339 writes them.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(from: &str, until: &str) -> Result<Self, String> {
        let time = |name: &str, text: &str| {
            let parsed = DateTime::parse_from_rfc3339(text);
            parsed.map(|time| time.to_utc()).map_err(|error| format!("--{name} {text}: {error}"))
        };
        let span = Self { from: time("from", from)?, until: time("until", until)? };
        if span.from < span.until { Ok(span) } else { Err("--from must be before --until".to_owned()) }
    }
}

/// Counts the whole hours anew in which the span lies, and prints on standard output what it has done.
///
/// # Errors
/// When the last hour is not over, or the database is away.
pub async fn rebuild_stats(config: Config, Span { from, until }: Span) -> anyhow::Result<()> {
    let (from, until) = whole_hours(from, until);
    anyhow::ensure!(
        until + WRITTEN_AFTER <= Utc::now(),
        "whole hours are counted, and the last one is not over for ten minutes: running processes still count it"
    );
    upkeep::bring_up_to_date(&config.database).await.context("the database could not be brought up to date")?;
    let pool = config.database.pool(Session::Queue, 1);
    let done = recount(&pool, from, until).await?;
    println!("{} hours from {from} until {until}: {} attempts, {} events", done.hours, done.attempts, done.events);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let (from, until) = ("2026-01-31T09:00:00Z", "2026-01-31T12:30:00+01:00");
        let span = Span::parse(from, until).expect("a span");
        assert_eq!(span.until - span.from, TimeDelta::minutes(150));
        for (from, until, wrong) in
            [("now", until, "--from"), (from, "", "--until"), (until, from, "--from"), (from, from, "--from")]
        {
            let why = Span::parse(from, until).expect_err("no span");
            assert!(why.starts_with(wrong), "{why}");
        }
    }
}
