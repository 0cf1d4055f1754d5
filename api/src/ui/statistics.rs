//! Numbers on pages: what came of attempts in a range of time, as tiles and as a chart, and why attempts failed. They
//! come from sums that are kept for this, so they cost the same however much was delivered.

mod chart;
pub(crate) mod hours;
pub(crate) mod lines;
mod marks;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use postrider_core::{
    id::SubscriptionId,
    page::Span,
    stats::{
        self, Filter, Percentiles, Step, Totals,
        causes::{self, Cause},
    },
    tally::class::{Class, Kind},
};

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries::{filters::moment, name},
        page::Visit,
        parts::{self, nothing, panel},
    },
};

/// Causes that a page shows; the API has more.
const CAUSES_SHOWN: usize = 8;

/// A range of time that ends now.
struct Range {
    /// What the address calls it.
    field: &'static str,
    words: &'static str,
    length: TimeDelta,
    step: Step,
    /// The step of what is not counted by hours.
    fine: TimeDelta,
}

/// The ranges that pages offer. The second one is meant where the address names none.
const RANGES: [Range; 3] = [
    Range { field: "1h", words: "hour", length: TimeDelta::hours(1), step: Step::Minute, fine: TimeDelta::minutes(1) },
    Range {
        field: "24h",
        words: "24 hours",
        length: TimeDelta::hours(24),
        step: Step::Hour,
        fine: TimeDelta::minutes(10),
    },
    Range { field: "7d", words: "7 days", length: TimeDelta::days(7), step: Step::Hour, fine: TimeDelta::hours(1) },
];

/// The range that the address of the page names.
fn range(visit: &Visit) -> &'static Range {
    let named = visit.query.get("range").and_then(|field| RANGES.iter().find(|range| range.field == field));
    named.unwrap_or(&RANGES[1])
}

/// The end of the range where the address names one; elsewhere a range ends now.
fn end(visit: &Visit) -> Result<Option<DateTime<Utc>>, ApiError> {
    moment("until", visit.query.get("until"), visit.now)
}

/// The range in words, as the end of a sentence.
fn in_words(visit: &Visit) -> Markup {
    html! {
        @match end(visit) {
            Ok(Some(until)) => { (range(visit).words) " before " (parts::clock(visit, until)) },
            Ok(None) | Err(_) => { "last " (range(visit).words) },
        }
    }
}

fn filter(visit: &Visit, subscription: Option<SubscriptionId>) -> Result<Filter, ApiError> {
    let until = end(visit)?;
    let since = until.unwrap_or(visit.now) - range(visit).length;
    let span = Span { since: Some(since), until };
    let tenant_id = if subscription.is_some() { None } else { visit.lists()? };
    Ok(Filter { tenant_id, subscription, event_type: None, span })
}

/// The panels with the numbers of everything that the visitor reaches, or of one subscription: what came of attempts,
/// and how long deliveries take.
pub(crate) async fn numbers(visit: &Visit, subscription: Option<SubscriptionId>) -> Markup {
    let read = async {
        let filter = filter(visit, subscription)?;
        let (pool, now) = (visit.pool(), visit.now);
        let read =
            tokio::try_join!(stats::totals(pool, &filter, now), stats::history(pool, &filter, range(visit).step, now));
        let marks = marks::marks(visit, subscription, filter.span).await;
        let (totals, points) = read?;
        Ok::<_, ApiError>((totals, points, marks))
    };
    let (body, times) = match read.await {
        Ok((totals, points, marks)) => {
            let body = html! { (tiles(&totals)) (chart::show(visit, &points, range(visit), &marks)) };
            (body, lines::latencies(visit, &points))
        }
        Err(error) => (parts::trouble(visit, &error), nothing()),
    };
    let backlog = if subscription.is_none() && visit.sees_all() { lines::backlog(visit).await } else { nothing() };
    html! {
        (panel("What came of attempts", &choices(visit), &body))
        div.columns { (times) (backlog) }
    }
}

fn choices(visit: &Visit) -> Markup {
    let chosen = range(visit).field;
    html! {
        nav.ranges aria-label="Range of time" {
            @for range in &RANGES {
                a href=(visit.with_query(&visit.query.with("range", Some(range.field))))
                    aria-current=[(range.field == chosen).then_some("true")] { (range.words) }
            }
            @if let Ok(Some(until)) = end(visit) {
                a href=(visit.with_query(&visit.query.with("until", None))) title="Show what is now" {
                    "until " (parts::clock(visit, until)) " " (visit.icon("x"))
                }
            }
        }
    }
}

fn tiles(totals: &Totals) -> Markup {
    let count = |number: u64| parts::count(i64::try_from(number).unwrap_or(i64::MAX));
    let tile = |word: &str, figure: &str, say: &Markup| {
        html! { div.figure-of { p.word { (word) } p.figure { (figure) } p.sub { (say) } } }
    };
    let Some(outcomes) = &totals.outcomes else { return nothing() };
    let rate = outcomes.success_rate().map_or_else(|| "–".to_owned(), |rate| format!("{:.1} %", rate * 100.0));
    let failed = count(outcomes.of_kind(Kind::Failure));
    let interrupted = outcomes.of_kind(Kind::OurFault);
    let time = |of: fn(&Percentiles) -> f64| {
        #[expect(clippy::cast_possible_truncation, reason = "times are far below the largest number")]
        let shown = outcomes.latencies().map(|times| parts::millis(of(&times).round() as i64));
        shown.unwrap_or_else(|| "–".to_owned())
    };
    let slow = html! {
        span.whole { "95 % within " (time(|times| times.p95)) "," } " "
        span.whole { "99 % within " (time(|times| times.p99)) }
    };
    html! {
        div.figures {
            @if let Some(accepted) = &totals.accepted {
                (tile("Events accepted", &count(accepted.events), &html! {
                    (parts::bytes(i64::try_from(accepted.bytes).unwrap_or(i64::MAX))) " of payloads"
                }))
            }
            (tile("Attempts", &count(outcomes.attempts()), &html! {
                (failed) " failed"
                @if interrupted > 0 { ", " (count(interrupted)) " interrupted" }
            }))
            (tile("Success rate", &rate, &html! {
                "of all attempts"
                @if interrupted > 0 { " but the interrupted ones" }
            }))
            (tile("Half arrive within", &time(|times| times.p50), &slow))
            (tile("Given up", &count(outcomes.of(Class::DeadLetter)), &html! { "became dead letters" }))
        }
    }
}

/// The panel with the causes of failures, the most frequent first.
pub(crate) async fn causes(visit: &Visit, subscription: Option<SubscriptionId>) -> Markup {
    let read = async {
        let filter = filter(visit, subscription)?;
        Ok::<_, ApiError>(causes::causes(visit.pool(), &filter, visit.now).await?.causes)
    };
    let body = match read.await {
        Err(error) => parts::trouble(visit, &error),
        Ok(causes) if causes.is_empty() => parts::empty(
            visit,
            "circle-check",
            "Nothing failed",
            &html! {
                p { "No attempt failed in the " (in_words(visit)) "." }
            },
        ),
        Ok(causes) => list(visit, &causes[..causes.len().min(CAUSES_SHOWN)]).await,
    };
    panel("Why attempts failed", &html! { span.sub { (in_words(visit)) } }, &body)
}

async fn list(visit: &Visit, causes: &[Cause]) -> Markup {
    let mut names = BTreeMap::new();
    for id in causes.iter().filter_map(|cause| cause.subscription) {
        if let Ok(Some(subscription)) = visit.app.cache.get(id).await {
            names.insert(id, name(&subscription));
        }
    }
    html! {
        ul.brief {
            @for cause in causes {
                li {
                    div {
                        a href=(visit.to(format!("deliveries/{}", cause.delivery))) { (words(cause)) }
                        span.sub.clip {
                            @match cause.subscription {
                                Some(id) => (names.get(&id).cloned().unwrap_or_else(|| parts::short(id))),
                                None => "inline deliveries",
                            }
                        }
                    }
                    div.end {
                        span.times { (parts::count(i64::try_from(cause.count).unwrap_or(i64::MAX))) "×" }
                        span.sub { "last " (parts::distance(cause.last_at - visit.now)) }
                    }
                }
            }
        }
    }
}

/// A cause in words.
fn words(cause: &Cause) -> String {
    why(cause.class, cause.status_code)
}

/// Why an attempt failed, in words.
pub(crate) fn why(class: Class, status_code: Option<u16>) -> String {
    let word = match class {
        Class::Timeout => "No answer in time",
        Class::Dns => "Host not found",
        Class::Connect => "No connection",
        Class::Tls => "TLS failed",
        Class::BlockedTarget => "Target is blocked",
        Class::Protocol => "Connection broke off",
        Class::Aborted => "Given up by the receiver",
        Class::PayloadGone => "Payload was removed",
        Class::Interrupted => "Cut off by our end",
        Class::LeaseLost => "Worker was lost",
        Class::Succeeded | Class::DeadLetter | Class::Canceled => "Ended",
        Class::Http3xx
        | Class::Http4xx
        | Class::Http404
        | Class::Http410
        | Class::Http429
        | Class::Http5xx
        | Class::HttpOther => {
            return status_code.map_or_else(|| "Answered".to_owned(), |code| format!("Answered {code}"));
        }
    };
    word.to_owned()
}
