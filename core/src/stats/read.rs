//! Reading sums: those of hours where whole hours are asked for, those of minutes for the rest.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Error, Result,
    id::SubscriptionId,
    stats::{Outcomes, ceiling, numbers::Numbers},
    tally::{WHOLE_TENANT, class::CLASSES, floor},
};

/// Rows that are read for one answer, at most: five days of minutes in eight slots, and more than a year of hours.
const ROWS_MAX: i64 = 70_000;

/// Whose sums are read.
pub(super) struct Key {
    pub(super) tenant_id: String,
    pub(super) subscription_id: Uuid,
    pub(super) event_type: String,
}

/// A span of time, to its end but without it.
type Piece = (DateTime<Utc>, DateTime<Utc>);

/// The parts of a span: minutes, then hours, then minutes. A part may be empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    before: Piece,
    hours: Piece,
    after: Piece,
}

impl Pieces {
    /// A span that is read from minutes alone.
    pub(super) fn minutes(since: DateTime<Utc>, until: DateTime<Utc>) -> Self {
        Self { before: (since, until), hours: (until, until), after: (until, until) }
    }

    /// A span that is read from hours as far as whole hours lie within it and have been folded. Before `minutes_from`
    /// there are hours only.
    pub(super) fn of(
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        folded_until: DateTime<Utc>,
        minutes_from: DateTime<Utc>,
    ) -> Self {
        let hour = TimeDelta::hours(1);
        let first = if since < minutes_from { floor(since, hour) } else { ceiling(since, hour) };
        // The last hour of a span that lies before the minutes is read as a whole.
        let last = if until < minutes_from { ceiling(until, hour) } else { floor(until, hour) }.min(folded_until);
        if first >= last {
            return Self::minutes(since, until);
        }
        Self { before: (since.min(first), first), hours: (first, last), after: (last, until.max(last)) }
    }
}

/// The sums of one row.
pub(super) struct Sums<'a> {
    outcomes: &'a [i64],
    durations: &'a [i64],
    latencies: &'a [i64],
    waits: &'a [i64],
    bytes: i64,
}

impl Sums<'_> {
    pub(super) fn add_to(&self, to: &mut Outcomes) {
        let pairs = [
            (&mut to.classes[..], self.outcomes),
            (&mut to.durations, self.durations),
            (&mut to.latencies, self.latencies),
            (&mut to.waits, self.waits),
        ];
        for (to, from) in pairs {
            for (to, from) in to.iter_mut().zip(from) {
                *to += from.unsigned_abs();
            }
        }
        to.bytes += self.bytes.unsigned_abs();
    }
}

/// The tenant of a subscription, also of one that has been deleted.
pub(super) async fn tenant_of(pool: &PgPool, subscription: SubscriptionId) -> Result<String> {
    let tenant = sqlx::query_scalar!("SELECT tenant_id FROM subscriptions WHERE id = $1", subscription.0);
    tenant.fetch_optional(pool).await?.ok_or(Error::NotFound("subscription"))
}

/// The end of the hours that have been folded.
pub(super) async fn folded_until(pool: &PgPool) -> Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar!("SELECT folded_until FROM stats_folding").fetch_one(pool).await?)
}

/// Calls `each` with the sums of every row, and the beginning of the minute or hour to which they belong.
pub(super) async fn outcomes(
    pool: &PgPool,
    key: &Key,
    pieces: &Pieces,
    mut each: impl FnMut(DateTime<Utc>, Sums<'_>),
) -> Result<()> {
    let rows = sqlx::query!(
        r#"SELECT minute AS "at!", outcomes::bigint[] AS "outcomes!: Numbers",
                  durations::bigint[] AS "durations!: Numbers", latencies::bigint[] AS "latencies!: Numbers",
                  waits::bigint[] AS "waits!: Numbers", bytes AS "bytes!"
             FROM stats_minute
            WHERE tenant_id = $1 AND subscription_id = $2 AND minute >= $3 AND minute < $4
            UNION ALL
           SELECT minute, outcomes, durations, latencies, waits, bytes FROM stats_minute
            WHERE tenant_id = $1 AND subscription_id = $2 AND minute >= $7 AND minute < $8
            UNION ALL
           SELECT hour, outcomes, durations, latencies, waits, bytes FROM stats_hour
            WHERE tenant_id = $1 AND subscription_id = $2 AND hour >= $5 AND hour < $6
            LIMIT $9"#,
        key.tenant_id,
        key.subscription_id,
        pieces.before.0,
        pieces.before.1,
        pieces.hours.0,
        pieces.hours.1,
        pieces.after.0,
        pieces.after.1,
        ROWS_MAX
    );
    for row in rows.fetch_all(pool).await? {
        let sums = Sums {
            outcomes: &row.outcomes.0,
            durations: &row.durations.0,
            latencies: &row.latencies.0,
            waits: &row.waits.0,
            bytes: row.bytes,
        };
        each(row.at, sums);
    }
    Ok(())
}

/// Accepted events and their bytes, of the minute or hour that begins then.
pub(super) struct AcceptedRow {
    pub(super) at: DateTime<Utc>,
    pub(super) events: i64,
    pub(super) bytes: i64,
}

/// The accepted events of every minute and hour.
pub(super) async fn accepted(pool: &PgPool, key: &Key, pieces: &Pieces) -> Result<Vec<AcceptedRow>> {
    let rows = sqlx::query_as!(
        AcceptedRow,
        r#"SELECT minute AS "at!", events::bigint AS "events!", bytes AS "bytes!" FROM accepted_minute
            WHERE tenant_id = $1 AND event_type = $2 AND minute >= $3 AND minute < $4
            UNION ALL
           SELECT minute, events, bytes FROM accepted_minute
            WHERE tenant_id = $1 AND event_type = $2 AND minute >= $7 AND minute < $8
            UNION ALL
           SELECT hour, events, bytes FROM accepted_hour
            WHERE tenant_id = $1 AND event_type = $2 AND hour >= $5 AND hour < $6
            LIMIT $9"#,
        key.tenant_id,
        key.event_type,
        pieces.before.0,
        pieces.before.1,
        pieces.hours.0,
        pieces.hours.1,
        pieces.after.0,
        pieces.after.1,
        ROWS_MAX
    );
    Ok(rows.fetch_all(pool).await?)
}

/// Calls `each` for every tenant that has sums: with its place in `names`, whether the sums are those of `day` and what
/// follows or those before it, and the sums of its classes. They are read from hours as far as these are folded.
pub(super) async fn whole_tenants(
    pool: &PgPool,
    names: &[String],
    (since, folded): Piece,
    day: DateTime<Utc>,
    mut each: impl FnMut(usize, bool, Outcomes),
) -> Result<()> {
    const { assert!(CLASSES == 20, "the statement below adds up each class") };
    let rows = sqlx::query!(
        r#"SELECT n.place AS "place!", x.at >= $5 AS "is_of_day!", sum(x.bytes)::bigint AS "bytes!",
                  ARRAY[sum(x.outcomes[1]), sum(x.outcomes[2]), sum(x.outcomes[3]), sum(x.outcomes[4]),
                        sum(x.outcomes[5]), sum(x.outcomes[6]), sum(x.outcomes[7]), sum(x.outcomes[8]),
                        sum(x.outcomes[9]), sum(x.outcomes[10]), sum(x.outcomes[11]), sum(x.outcomes[12]),
                        sum(x.outcomes[13]), sum(x.outcomes[14]), sum(x.outcomes[15]), sum(x.outcomes[16]),
                        sum(x.outcomes[17]), sum(x.outcomes[18]), sum(x.outcomes[19]), sum(x.outcomes[20])]::bigint[]
                    AS "outcomes!: Vec<Option<i64>>"
             FROM unnest($1::text[]) WITH ORDINALITY n (id, place)
            CROSS JOIN LATERAL (
                  (SELECT h.hour AS at, h.outcomes, h.bytes FROM stats_hour h
                    WHERE h.tenant_id = n.id AND h.subscription_id = $2 AND h.hour >= $3 AND h.hour < $4 LIMIT 1000)
                  UNION ALL
                  (SELECT m.minute, m.outcomes::bigint[], m.bytes FROM stats_minute m
                    WHERE m.tenant_id = n.id AND m.subscription_id = $2 AND m.minute >= $4 LIMIT 40000)) x
            GROUP BY 1, 2 LIMIT 2000"#,
        names,
        WHOLE_TENANT,
        since,
        folded.max(since),
        day
    );
    for row in rows.fetch_all(pool).await? {
        let sums: Vec<i64> = row.outcomes.into_iter().map(Option::unwrap_or_default).collect();
        let mut outcomes = Outcomes::default();
        let sums = Sums { outcomes: &sums, durations: &[], latencies: &[], waits: &[], bytes: row.bytes };
        sums.add_to(&mut outcomes);
        each(usize::try_from(row.place - 1).unwrap_or(usize::MAX), row.is_of_day, outcomes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_hours_are_read_as_hours() {
        let start = DateTime::from_timestamp(1_800_000_000, 0).expect("a full hour");
        let at = |minutes| start + TimeDelta::minutes(minutes);
        let pieces = |since, until| Pieces::of(at(since), at(until), at(600), at(-600));
        let of = |before: (i64, i64), hours: (i64, i64), after: (i64, i64)| {
            let [before, hours, after] = [before, hours, after].map(|(from, to)| (at(from), at(to)));
            Pieces { before, hours, after }
        };
        assert_eq!(pieces(10, 250), of((10, 60), (60, 240), (240, 250)));
        assert_eq!(pieces(60, 240), of((60, 60), (60, 240), (240, 240)));
        assert_eq!(pieces(10, 50), of((10, 50), (50, 50), (50, 50)));
        assert_eq!(pieces(10, 700), of((10, 60), (60, 600), (600, 700)), "later hours are not folded yet");
        assert_eq!(pieces(610, 800), of((610, 800), (800, 800), (800, 800)));
        assert_eq!(pieces(-700, 30), of((-720, -720), (-720, 0), (0, 30)).since(at(-700)), "minutes are gone");
        assert_eq!(pieces(-800, -650), of((-840, -840), (-840, -600), (-600, -600)).since(at(-800)));
    }

    impl Pieces {
        /// The same pieces, of a span that begins within its first hour.
        fn since(self, since: DateTime<Utc>) -> Self {
            Self { before: (since.min(self.hours.0), self.hours.0), ..self }
        }
    }
}
