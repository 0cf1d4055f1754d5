//! The hours of the last days as a map: a row for each day, a cell for each hour, coloured by the share of attempts
//! that failed. Each cell says the same in words.

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Timelike, Utc};
use maud::{Markup, html};
use postrider_core::{
    id::SubscriptionId,
    page::Span,
    stats::{self, Filter, Step, Totals},
    tally::class::Kind,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        page::Visit,
        parts::{self, count, panel},
    },
};

/// Days of the map; the last one is today.
const DAYS: u64 = 7;
/// Every so many hours, the head of the map says the hour.
const HOURS_BETWEEN_HEADS: u32 = 3;
/// The colours by the share of failures: up to each of these shares, in percent, and beyond the last one. What they
/// stand for is told below the map.
const SHARES: [(u64, &str, &str); 4] =
    [(0, "none", "none failed"), (5, "few", "up to 5 % failed"), (25, "some", "up to 25 %"), (100, "many", "more")];

/// The panel for one subscription.
pub(crate) async fn map(visit: &Visit, subscription: SubscriptionId) -> Markup {
    let read = async {
        let first = (visit.now.date_naive() - Days::new(DAYS - 1)).and_time(NaiveTime::MIN).and_utc();
        let span = Span { since: Some(first), until: None };
        let filter = Filter { subscription: Some(subscription), span, ..Filter::default() };
        Ok::<_, ApiError>(stats::history(visit.pool(), &filter, Step::Hour, visit.now).await?)
    };
    let body = match read.await {
        Ok(hours) => html! { (sentence(visit, &hours)) (table(&hours)) (key()) },
        Err(error) => parts::trouble(visit, &error),
    };
    panel("Failures by the hour", &html! { span.sub { "last " (DAYS) " days, in UTC" } }, &body)
}

/// Attempts that succeeded and that failed in an hour.
fn attempts(hour: &Totals) -> (u64, u64) {
    let of = |kind| hour.outcomes.as_ref().map_or(0, |outcomes| outcomes.of_kind(kind));
    (of(Kind::Success), of(Kind::Failure))
}

/// The share of failures in percent, rounded up so that one failure is seen; `None` where nothing was attempted.
fn share(good: u64, bad: u64) -> Option<u64> {
    (good + bad > 0).then(|| (bad * 100).div_ceil(good + bad))
}

/// What the map shows, in one sentence: how much failed, and in which hour most of it.
fn sentence(visit: &Visit, hours: &[Totals]) -> Markup {
    let (good, bad) = hours.iter().map(attempts).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let worst = hours.iter().filter(|hour| attempts(hour).1 > 0).max_by_key(|hour| attempts(hour).1);
    html! {
        p {
            @match worst {
                _ if good + bad == 0 => "Nothing was attempted in these days.",
                None => { "None of " (number(good)) " attempts failed." }
                Some(hour) => {
                    (number(bad)) " of " (number(good + bad)) " attempts failed. The worst hour was that from "
                    (parts::clock(visit, hour.since)) " on, with " (number(attempts(hour).1)) " failures."
                }
            }
        }
    }
}

fn table(hours: &[Totals]) -> Markup {
    html! {
        table.hours {
            caption.unseen { "The share of attempts that failed, by day and hour (UTC)" }
            thead {
                tr {
                    th scope="col" { "Day" }
                    @for first in (0..24).step_by(HOURS_BETWEEN_HEADS as usize) {
                        th scope="colgroup" colspan=(HOURS_BETWEEN_HEADS) { (format!("{first:02}")) }
                    }
                }
            }
            tbody { @for day in days(hours).iter().rev() { (row(day)) } }
        }
    }
}

/// The hours by day. The first one of them begins a day.
fn days(hours: &[Totals]) -> Vec<&[Totals]> {
    hours.chunk_by(|one, next| one.since.date_naive() == next.since.date_naive()).collect()
}

fn row(day: &[Totals]) -> Markup {
    let name = day.first().map(|hour| hour.since.format("%a %-d").to_string()).unwrap_or_default();
    html! {
        tr {
            th scope="row" { (name) }
            @for hour in day { (cell(hour)) }
            // What has not come yet.
            @for _ in day.len()..24 { td {} }
        }
    }
}

fn cell(hour: &Totals) -> Markup {
    let (good, bad) = attempts(hour);
    let words = words(hour.since, good, bad);
    let share = share(good, bad);
    let class = share.and_then(|share| SHARES.iter().find(|(most, ..)| share <= *most)).map(|(_, class, _)| *class);
    html! { td class=[class] title=(words) { span.unseen { (words) } } }
}

/// What a cell says.
fn words(from: DateTime<Utc>, good: u64, bad: u64) -> String {
    let until = (from + TimeDelta::hours(1)).hour();
    let time = format!("{:02} to {until:02} h", from.hour());
    match share(good, bad) {
        None => format!("{time}: no attempts"),
        Some(share) => format!("{time}: {} of {} failed, {share} %", number(bad), number(good + bad)),
    }
}

fn key() -> Markup {
    html! {
        p.hours-key {
            span { "no attempts" }
            @for (_, class, words) in SHARES { span class=(class) { (words) } }
        }
    }
}

fn number(number: u64) -> String {
    count(i64::try_from(number).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_up_and_said() {
        assert_eq!(share(0, 0), None);
        assert_eq!([share(10, 0), share(9_999, 1), share(1, 1), share(0, 3)], [0, 1, 50, 100].map(Some));
        let from = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        assert_eq!(words(from, 0, 0), "08 to 09 h: no attempts");
        assert_eq!(words(from, 19, 1), "08 to 09 h: 1 of 20 failed, 5 %");
        assert_eq!(words(from + TimeDelta::hours(15), 1, 0), "23 to 00 h: 0 of 1 failed, 0 %");
    }
}
