//! Statistics for people: totals of a span of time, the same as a series, and why attempts failed. They are read from
//! the sums that [`crate::tally`] writes, never from attempts, so they cost the same however much was delivered.
//!
//! Sums of minutes are kept for a few days, sums of hours for more than a year. A span is read from hours where whole
//! hours lie within it, and from minutes at its ends.

pub mod causes;
pub mod damage;
pub mod fold;
pub mod last_day;
mod numbers;
mod read;
pub mod recount;
pub mod tenants;

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::{
    Error, Result,
    event::event_type::EventType,
    id::SubscriptionId,
    page::Span,
    stats::read::{Key, Pieces, Sums},
    tally::{
        ALL_TENANTS, ALL_TYPES, WHOLE_TENANT,
        buckets::{DURATION_BUCKETS, LATENCY_BUCKETS, WAIT_BUCKETS, percentile},
        class::{CLASSES, Class, Kind},
        floor,
    },
    text_enum::text_enum,
    upkeep::partition::{HOURS_DAYS, MINUTES_DAYS},
};

/// The span where the caller names none.
const SPAN_DEFAULT: TimeDelta = TimeDelta::hours(24);
/// The span over which the pace is measured.
const PACE_SPAN: TimeDelta = TimeDelta::minutes(5);
/// A minute counts for the pace when it is over for so long: by then processes have written its sums.
const PACE_WRITTEN_AFTER: TimeDelta = TimeDelta::seconds(20);
/// Points of a series, at most: more than a day of minutes.
pub const POINTS_MAX: i64 = 1_500;
/// The shares of values for which percentiles are estimated.
const SHARES: [f64; 3] = [0.5, 0.95, 0.99];

/// Whose numbers are asked for, and of which time; an absent field means no restriction.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this tenant.
    pub tenant_id: Option<String>,
    /// Only this subscription. Accepted events belong to no subscription, so then they are not counted.
    pub subscription: Option<SubscriptionId>,
    /// Only accepted events of this type. Attempts are not counted by type, so then they are not counted at all.
    pub event_type: Option<EventType>,
    /// The span of time; the last 24 hours where it is open.
    pub span: Span,
}

text_enum! {
    /// The span of one point in a series.
    pub enum Step {
        /// A minute.
        Minute = "1m",
        /// An hour.
        Hour = "1h",
        /// A day of UTC.
        Day = "1d",
    }
}

impl Step {
    /// The length of the span.
    #[must_use]
    pub fn length(self) -> TimeDelta {
        match self {
            Self::Minute => TimeDelta::minutes(1),
            Self::Hour => TimeDelta::hours(1),
            Self::Day => TimeDelta::days(1),
        }
    }
}

/// The numbers of a span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The beginning of the span.
    pub since: DateTime<Utc>,
    /// The end of the span, which is not part of it.
    pub until: DateTime<Utc>,
    /// Events that were accepted; `None` where a subscription's numbers are asked for.
    pub accepted: Option<Accepted>,
    /// Attempts and ends of deliveries; `None` where an event type's numbers are asked for.
    pub outcomes: Option<Outcomes>,
}

/// Accepted events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// How many.
    pub events: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

/// Attempts by their outcomes, and deliveries that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    classes: [u64; CLASSES],
    durations: [u64; DURATION_BUCKETS.len() + 1],
    latencies: [u64; LATENCY_BUCKETS.len() + 1],
    waits: [u64; WAIT_BUCKETS.len() + 1],
    /// Bytes of payloads in attempts that a receiver answered.
    pub bytes: u64,
}

/// Estimates of the times in milliseconds below which half, 95 % and 99 % of the values lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// 95 % lie below it.
    pub p95: f64,
    /// 99 % lie below it.
    pub p99: f64,
}

impl Outcomes {
    /// How often this class was counted.
    #[must_use]
    pub fn of(&self, class: Class) -> u64 {
        self.classes[class.place()]
    }

    /// Adds to the number of this class.
    fn add_class(&mut self, class: Class, count: u64) {
        self.classes[class.place()] += count;
    }

    /// Adds to the number of attempts that took as long as this bucket says; buckets that are not known are left out.
    fn add_duration(&mut self, bucket: usize, count: u64) {
        if let Some(known) = self.durations.get_mut(bucket) {
            *known += count;
        }
    }

    /// Adds what others have counted.
    fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.classes[..], &other.classes[..]),
            (&mut self.durations, &other.durations),
            (&mut self.latencies, &other.latencies),
            (&mut self.waits, &other.waits),
        ];
        for (to, from) in pairs.into_iter().flat_map(|(to, from)| to.iter_mut().zip(from)) {
            *to += from;
        }
        self.bytes += other.bytes;
    }

    /// Every class that was counted, with its number.
    pub fn classes(&self) -> impl Iterator<Item = (Class, u64)> {
        Class::ALL.into_iter().map(|class| (class, self.of(class))).filter(|(_, count)| *count > 0)
    }

    /// How often classes of this kind were counted.
    #[must_use]
    pub fn of_kind(&self, kind: Kind) -> u64 {
        self.classes().filter(|(class, _)| class.kind() == kind).map(|(_, count)| count).sum()
    }

    /// All attempts, whatever came of them.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        [Kind::Success, Kind::Failure, Kind::OurFault].map(|kind| self.of_kind(kind)).iter().sum()
    }

    /// The share of successes, 0 to 1, among the attempts in which the receiver had a part; `None` where there were
    /// none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
    pub fn success_rate(&self) -> Option<f64> {
        let (good, bad) = (self.of_kind(Kind::Success), self.of_kind(Kind::Failure));
        (good + bad > 0).then(|| good as f64 / (good + bad) as f64)
    }

    /// How long attempts took; `None` where none was measured.
    #[must_use]
    pub fn durations(&self) -> Option<Percentiles> {
        percentiles(&DURATION_BUCKETS, &self.durations)
    }

    /// The time from when deliveries were due first to their success; `None` where none succeeded.
    #[must_use]
    pub fn latencies(&self) -> Option<Percentiles> {
        percentiles(&LATENCY_BUCKETS, &self.latencies)
    }

    /// For how long deliveries were due before their first attempt; `None` where there was none.
    #[must_use]
    pub fn waits(&self) -> Option<Percentiles> {
        percentiles(&WAIT_BUCKETS, &self.waits)
    }
}

fn percentiles(bounds: &[f64], counts: &[u64]) -> Option<Percentiles> {
    let [p50, p95, p99] = SHARES.map(|share| percentile(bounds, counts, share));
    Some(Percentiles { p50: p50?, p95: p95?, p99: p99? })
}

/// The numbers of a span of time.
///
/// # Errors
/// Invalid where the span is not one; not found where there never was such a subscription; or unavailable.
pub async fn totals(pool: &PgPool, filter: &Filter, now: DateTime<Utc>) -> Result<Totals> {
    let (since, until) = span(filter.span, HOURS_DAYS, now)?;
    // A span that begins before the first minute that is kept is read from whole hours.
    let finest = if since < minutes_from(now) { Step::Hour } else { Step::Minute };
    let (since, until) = (floor(since, finest.length()), ceiling(until, TimeDelta::minutes(1)));
    let points = series(pool, filter, (since, until), until - since, now).await?;
    points.into_iter().next().ok_or_else(|| Error::internal("a span has one point"))
}

/// How fast things go, as means of the last full minutes whose sums have been written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Events that are accepted each second.
    pub accepted: f64,
    /// Deliveries that end each second, in whatever way.
    pub ended: f64,
}

/// How fast events have been accepted and deliveries have ended of late, for one tenant or for all.
///
/// # Errors
/// When the database is away.
pub async fn pace(pool: &PgPool, tenant_id: Option<String>, now: DateTime<Utc>) -> Result<Pace> {
    let until = floor(now - PACE_WRITTEN_AFTER, TimeDelta::minutes(1));
    let span = Span { since: Some(until - PACE_SPAN), until: Some(until) };
    let totals = totals(pool, &Filter { tenant_id, span, ..Filter::default() }, now).await?;
    let outcomes = totals.outcomes.unwrap_or_default();
    let ended = [Class::Succeeded, Class::DeadLetter, Class::Canceled].map(|class| outcomes.of(class));
    #[expect(clippy::cast_precision_loss, reason = "a pace needs no more digits")]
    let each_second = |count: u64| count as f64 / PACE_SPAN.as_seconds_f64();
    Ok(Pace {
        accepted: each_second(totals.accepted.unwrap_or_default().events),
        ended: each_second(ended.iter().sum()),
    })
}

/// The numbers of a span of time as a series. Every point is there, also where nothing happened.
///
/// # Errors
/// As [`totals`], and invalid where there are more than [`POINTS_MAX`] points, or minutes are asked for that are not
/// kept any more.
pub async fn history(pool: &PgPool, filter: &Filter, step: Step, now: DateTime<Utc>) -> Result<Vec<Totals>> {
    let (since, until) = span(filter.span, HOURS_DAYS, now)?;
    let (since, until) = (floor(since, step.length()), ceiling(until, step.length()));
    if step == Step::Minute && since < minutes_from(now) {
        return Err(Error::invalid("since", format!("must be at most {MINUTES_DAYS} days ago for single minutes")));
    }
    let points = (until - since).num_seconds() / step.length().num_seconds();
    if points > POINTS_MAX {
        return Err(Error::invalid("step", format!("gives {points} points; {POINTS_MAX} are shown at most")));
    }
    series(pool, filter, (since, until), step.length(), now).await
}

/// Reads the sums of a span, and adds up those of each point.
async fn series(
    pool: &PgPool,
    filter: &Filter,
    (since, until): (DateTime<Utc>, DateTime<Utc>),
    step: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Vec<Totals>> {
    if filter.subscription.is_some() && filter.event_type.is_some() {
        return Err(Error::invalid("event_type", "cannot be combined with a subscription"));
    }
    let key = Key {
        tenant_id: match (&filter.tenant_id, filter.subscription) {
            (Some(tenant), _) => tenant.clone(),
            (None, Some(subscription)) => read::tenant_of(pool, subscription).await?,
            (None, None) => ALL_TENANTS.to_owned(),
        },
        subscription_id: filter.subscription.map_or(WHOLE_TENANT, |id| id.0),
        event_type: filter.event_type.as_ref().map_or(ALL_TYPES, EventType::as_str).to_owned(),
    };
    let folded_until = read::folded_until(pool).await?;
    let from_hours = step >= TimeDelta::hours(1) || since < minutes_from(now);
    let pieces = if from_hours {
        Pieces::of(since, until, folded_until, minutes_from(now))
    } else {
        Pieces::minutes(since, until)
    };
    let empty = Totals {
        since,
        until,
        accepted: filter.subscription.is_none().then(Accepted::default),
        outcomes: filter.event_type.is_none().then(Outcomes::default),
    };
    let mut points = Vec::new();
    let mut at = since;
    while at < until {
        let next = (at + step).min(until);
        points.push(Totals { since: at, until: next, ..empty.clone() });
        at = next;
    }
    let place = |at: DateTime<Utc>| usize::try_from((at - since).num_seconds() / step.num_seconds()).ok();
    // Read at the same time, because each of them takes milliseconds for a month.
    let accepted =
        async { if empty.accepted.is_some() { read::accepted(pool, &key, &pieces).await } else { Ok(Vec::new()) } };
    let outcomes = async {
        if empty.outcomes.is_none() {
            return Ok(());
        }
        let add = |at, one: Sums<'_>| {
            if let Some(outcomes) = place(at).and_then(|at| points.get_mut(at)?.outcomes.as_mut()) {
                one.add_to(outcomes);
            }
        };
        read::outcomes(pool, &key, &pieces, add).await
    };
    let (accepted, ()) = tokio::try_join!(accepted, outcomes)?;
    for one in accepted {
        if let Some(accepted) = place(one.at).and_then(|at| points.get_mut(at)?.accepted.as_mut()) {
            accepted.events += one.events.unsigned_abs();
            accepted.bytes += one.bytes.unsigned_abs();
        }
    }
    Ok(points)
}

/// The first moment of which sums of minutes are kept.
fn minutes_from(now: DateTime<Utc>) -> DateTime<Utc> {
    (now.date_naive() - Days::new(MINUTES_DAYS)).and_time(NaiveTime::MIN).and_utc()
}

/// The two ends of a span; open ends are filled in.
fn span(span: Span, days_max: u64, now: DateTime<Utc>) -> Result<(DateTime<Utc>, DateTime<Utc>)> {
    // Nothing is known of the future, but clocks may differ by a moment.
    let until = span.until.unwrap_or(now).min(now + TimeDelta::minutes(1));
    let since = span.since.unwrap_or(until - SPAN_DEFAULT);
    if since >= until {
        return Err(Error::invalid("since", "must be before `until`, and not in the future"));
    }
    if since < now - Days::new(days_max) {
        return Err(Error::invalid("since", format!("must be at most {days_max} days ago")));
    }
    Ok((since, until))
}

/// The end of the span in which a moment lies; the moment itself where it is such an end.
fn ceiling(moment: DateTime<Utc>, span: TimeDelta) -> DateTime<Utc> {
    let floor = floor(moment, span);
    if floor == moment { moment } else { floor + span }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let hours = |count| now + TimeDelta::hours(count);
        let field = |since, until| match span(Span { since, until }, 400, now) {
            Ok(ends) => Ok(ends),
            Err(Error::Invalid(problems)) => Err(problems.0[0].field.clone()),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(field(None, None), Ok((hours(-24), now)));
        assert_eq!(field(None, Some(hours(-5))), Ok((hours(-29), hours(-5))));
        assert_eq!(field(Some(hours(-1)), Some(hours(99))), Ok((hours(-1), now + TimeDelta::minutes(1))));
        for (since, until) in [(now, Some(now)), (hours(1), Some(hours(2))), (hours(1), None), (hours(-9_700), None)] {
            assert_eq!(field(Some(since), until), Err("since".to_owned()), "{since} {until:?}");
        }
    }
}
