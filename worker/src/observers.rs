//! Those who are told what the worker does: the statistics, and whoever watches just now.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use postrider_core::{
    live::{Topic, reporter::Reporter, sample::Sighting},
    queue::{
        Claimed, Report,
        observed::{Recorded, Subject},
    },
    tally::Tally,
};

/// The observers of a worker; clones share them.
#[derive(Clone, Default)]
pub struct Observers {
    /// Counts everything.
    pub tally: Arc<Tally>,
    /// Tells those who watch, if anybody does.
    pub reporter: Arc<Reporter>,
}

impl Observers {
    /// Tells that an attempt begins.
    pub fn begins(&self, claimed: &Claimed, subject: Option<&Subject>) {
        if !self.reporter.is_watched() {
            return;
        }
        self.reporter.note(&Sighting {
            topic: Topic::Started,
            delivery_id: claimed.delivery_id,
            event_id: claimed.event_id,
            subscription_id: claimed.subscription_id,
            tenant_id: subject.map_or("", |subject| &subject.tenant_id),
            event_type: subject.map_or("", |subject| &subject.event_type),
            attempt: Some(claimed.attempt_number),
            status_code: None,
            error_kind: None,
            duration: None,
        });
    }

    /// Tells that a report was written down, or came too late.
    pub fn ended(&self, report: &Report, recorded: Recorded, now: DateTime<Utc>) {
        self.tally.add(&report.observed(recorded, now));
        if recorded == Recorded::Yes
            && self.reporter.is_watched()
            && let Some(seen) = report.sighting()
        {
            self.reporter.note(&seen);
        }
    }
}
