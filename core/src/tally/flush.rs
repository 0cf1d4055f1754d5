//! Writing the sums: every few seconds, and before a process ends. Each row has a slot, of which a process has one, so
//! that hardly two processes wait for one row. Where many subscriptions are at work, sums are written less often, into
//! fewer slots, and those of subscriptions for ten minutes at once, so that the cost stays a small share of what
//! delivering costs.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Result,
    database::bounded,
    error::{is_missing_partition, is_outage},
    tally::{
        Accepted, Cause, Counts, Sums, Tally, WHOLE_TENANT, floor,
        rows::{AcceptedRow, CauseRow, SumRow},
    },
    upkeep::partition,
};

/// How often the sums are written.
pub const FLUSH_EVERY: Duration = Duration::from_secs(15);
/// More sums than this for each [`FLUSH_EVERY`] are written later, together with those that are added meanwhile. So a
/// process writes no more than about 130 rows a second, which costs the database less than half a percent of a core.
const SUMS_PER_FLUSH: usize = 2_000;
/// The longest time between two writes.
pub const FLUSH_EVERY_MAX: Duration = Duration::from_secs(300);
/// Of more sums than this, those of subscriptions are written for [`COARSE_SPAN`] at once.
const VERY_MANY_SUMS: usize = 20_000;
const COARSE_SPAN: TimeDelta = TimeDelta::minutes(10);
/// Slots over which processes are spread.
const SLOTS: i16 = 8;
/// As [`SLOTS`], where there are more sums than [`SUMS_PER_FLUSH`].
const SLOTS_FOR_MANY: i16 = 2;
/// Rows of each kind that one statement writes, at most.
const ROWS_PER_STATEMENT_MAX: usize = 1_000;

/// A slot, chosen by chance.
pub(super) fn any_slot() -> i16 {
    rand::random::<u16>().cast_signed().rem_euclid(SLOTS)
}

/// The tenant, the type and the time of accepted events that are summed up.
type AcceptedKey = (String, String, DateTime<Utc>);
/// The tenant, the subscription, the time and the class of failures that are summed up.
type CauseKey = (String, Uuid, DateTime<Utc>, &'static str);

/// A part of the sums that one statement writes, in the order of their keys.
#[derive(Default)]
struct Part {
    outcomes: Vec<(String, Uuid, DateTime<Utc>, Counts)>,
    accepted: Vec<(AcceptedKey, Accepted)>,
    causes: Vec<(CauseKey, Cause)>,
}

impl Tally {
    /// Writes the sums again and again until `ended` is canceled, and once more then. Nobody may abort this: what is
    /// being written would be lost.
    pub async fn run(self: Arc<Self>, pool: PgPool, ended: CancellationToken) {
        loop {
            tokio::select! {
                () = self.pause() => {}
                () = ended.cancelled() => {}
            }
            if let Err(error) = self.flush(&pool).await {
                tracing::warn!(%error, "statistics could not be written; this is tried again unless the process ends");
            }
            if ended.is_cancelled() {
                return;
            }
        }
    }

    /// Waits until the sums are to be written: [`FLUSH_EVERY`], or longer where there are many.
    async fn pause(&self) {
        let (mut waited, mut room) = (Duration::ZERO, 0);
        while waited < FLUSH_EVERY_MAX && self.size() >= room {
            tokio::time::sleep(FLUSH_EVERY).await;
            waited += FLUSH_EVERY;
            room += SUMS_PER_FLUSH;
        }
    }

    /// Writes all sums. What cannot be written because the database is away stays in memory.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn flush(&self, pool: &PgPool) -> Result<()> {
        let sums = self.sums.lock().expect("nothing panics while it is held").take();
        let slot = if sums.size > SUMS_PER_FLUSH { self.slot % SLOTS_FOR_MANY } else { self.slot };
        let mut parts = sums.coarse().into_parts().into_iter();
        while let Some(part) = parts.next() {
            match part.write_with_partitions(pool, slot).await {
                Ok(()) => {}
                Err(error) if is_outage(&error) && !is_missing_partition(&error) => {
                    let mut sums = self.sums.lock().expect("nothing panics while it is held");
                    for part in std::iter::once(part).chain(parts) {
                        sums.merge(part.into_sums());
                    }
                    return Err(error.into());
                }
                Err(error) => tracing::error!(%error, "a part of the statistics is lost: please report this"),
            }
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.sums.lock().expect("nothing panics while it is held").size
    }
}

impl Sums {
    /// Writes all sums into the first slot, on the caller's connection.
    pub(crate) async fn write(self, connection: &mut PgConnection) -> Result<()> {
        for part in self.into_parts() {
            part.write(connection, 0).await?;
        }
        Ok(())
    }

    /// Sums up subscriptions over [`COARSE_SPAN`], where there are too many for single minutes.
    fn coarse(self) -> Self {
        if self.size <= VERY_MANY_SUMS {
            return self;
        }
        let mut coarse = Self { accepted: self.accepted, causes: self.causes, ..Self::default() };
        for (tenant, of_tenant) in self.outcomes {
            for ((subscription, minute), counts) in of_tenant {
                let span = if subscription == WHOLE_TENANT { TimeDelta::minutes(1) } else { COARSE_SPAN };
                coarse.counts(&tenant, subscription, floor(minute, span)).merge(&counts);
            }
        }
        coarse
    }

    fn into_parts(self) -> Vec<Part> {
        let outcomes = self.outcomes.into_iter().flat_map(|(tenant, of_tenant)| {
            let of_tenant = of_tenant.into_iter();
            of_tenant.map(move |((subscription, minute), counts)| (tenant.clone(), subscription, minute, counts))
        });
        let (mut outcomes, mut accepted, mut causes) = (outcomes, self.accepted.into_iter(), self.causes.into_iter());
        let parts = std::iter::from_fn(|| {
            let part = Part {
                outcomes: outcomes.by_ref().take(ROWS_PER_STATEMENT_MAX).collect(),
                accepted: accepted.by_ref().take(ROWS_PER_STATEMENT_MAX).collect(),
                causes: causes.by_ref().take(ROWS_PER_STATEMENT_MAX).collect(),
            };
            let is_empty = part.outcomes.is_empty() && part.accepted.is_empty() && part.causes.is_empty();
            (!is_empty).then_some(part)
        });
        parts.collect()
    }
}

impl Part {
    /// Writes the part. Where partitions are missing, because nobody made them ahead of time, they are made first.
    async fn write_with_partitions(&self, pool: &PgPool, slot: i16) -> std::result::Result<(), sqlx::Error> {
        match bounded!(pool, |connection| self.write(connection, slot)) {
            Err(error) if is_missing_partition(&error) => {
                partition::ensure(pool).await?;
                bounded!(pool, |connection| self.write(connection, slot))
            }
            written => written,
        }
    }

    async fn write(&self, connection: &mut PgConnection, slot: i16) -> std::result::Result<(), sqlx::Error> {
        let sums = self.outcomes.iter().map(|(tenant_id, subscription_id, minute, counts)| SumRow {
            tenant_id,
            subscription_id: *subscription_id,
            minute: *minute,
            outcomes: &counts.outcomes,
            durations: &counts.durations,
            latencies: &counts.latencies,
            waits: &counts.waits,
            bytes: counts.bytes,
        });
        let accepted = self.accepted.iter().map(|((tenant_id, event_type, minute), accepted)| AcceptedRow {
            tenant_id,
            event_type,
            minute: *minute,
            events: accepted.events,
            bytes: accepted.bytes,
        });
        let causes = self.causes.iter().map(|((tenant_id, subscription_id, moment, cause), failures)| CauseRow {
            tenant_id,
            subscription_id: *subscription_id,
            moment: *moment,
            cause,
            count: failures.count,
            first_at: failures.first_at,
            last_at: failures.last_at,
            delivery_id: failures.delivery_id,
            status_code: failures.status_code,
        });
        let add = sqlx::query!(
            "SELECT add_stats($1, $2, $3, $4)",
            sums.collect::<Vec<_>>() as _,
            accepted.collect::<Vec<_>>() as _,
            causes.collect::<Vec<_>>() as _,
            slot
        );
        add.fetch_one(connection).await.map(drop)
    }

    fn into_sums(self) -> Sums {
        let mut sums = Sums { accepted: self.accepted.into_iter().collect(), ..Sums::default() };
        sums.causes = self.causes.into_iter().collect();
        for (tenant, subscription, minute, counts) in self.outcomes {
            sums.counts(&tenant, subscription, minute).merge(&counts);
        }
        sums
    }
}
