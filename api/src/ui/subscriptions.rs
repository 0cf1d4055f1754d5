//! The list of subscriptions, with its filters.

use maud::{Markup, html};
use postrider_core::{
    id::SubscriptionId,
    stats::last_day::{HOURS, LastDay, last_day},
    subscription::{
        State, Subscription,
        circuit::CircuitState,
        condition::{self, Condition},
        list::{Filter, Receiver},
    },
    tally::class::Kind,
};

use crate::{
    serve::{
        list::{metadata, parsed},
        problem::ApiError,
    },
    ui::{
        deliveries::{host, name},
        page::{Page, Section, Visit},
        parts::{self, Tone, nothing},
        rows::{Rows, window},
    },
};

/// Patterns of event types that a row shows.
const PATTERNS_SHOWN: usize = 3;

/// The page.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let list = match list(visit).await {
        Ok(rows) => show(visit, &rows).await,
        Err(error) => parts::trouble(visit, &error),
    };
    let new = html! {
        @if visit.may_manage() {
            a.button.main href=(visit.to("subscriptions/new")) { (visit.icon("plus")) "New subscription" }
        }
    };
    let sentence = html! { "Who wants which events, and where they go." };
    let body = html! {
        (parts::head(&parts::text("Subscriptions"), &sentence, &new))
        (chips(visit))
        section.panel #list { (list) }
    };
    Ok(Page::new(Section::Subscriptions, "Subscriptions", body))
}

async fn list(visit: &Visit) -> Result<Rows<Subscription>, ApiError> {
    let fields = &visit.query;
    let entries = fields.all("metadata").map(str::to_owned).collect();
    let filter = Filter {
        tenant_id: visit.lists()?,
        state: parsed::<State>("state", fields.get("state"))?,
        metadata: metadata(entries)?,
        circuit: parsed::<CircuitState>("circuit", fields.get("circuit"))?,
        receiver: fields.has("failing").then_some(Receiver::Failing),
    };
    let found = visit.subscriptions().list(&filter, window(visit, |id: SubscriptionId| id.0)?).await?;
    Ok(Rows::of(found, |subscription| subscription.id.0))
}

fn chips(visit: &Visit) -> Markup {
    let chip = |field: &str, value: &str, word: &str| {
        let chosen = visit.query.get(field) == Some(value);
        let query = crate::ui::fields::query([(field, value), ("tenant_id", visit.query.text("tenant_id"))]);
        html! { a href=(visit.to(format!("subscriptions{query}"))) aria-current=[chosen.then_some("true")] { (word) } }
    };
    let is_all = ["state", "circuit", "failing"].iter().all(|name| !visit.query.has(name));
    html! {
        nav.chips aria-label="Filters" {
            a href=(visit.to("subscriptions")) aria-current=[is_all.then_some("true")] { "All" }
            (chip("failing", "true", "Failing"))
            (chip("circuit", "open", "Circuit open"))
            (chip("state", "active", "Active"))
            (chip("state", "paused", "Paused"))
            (chip("state", "disabled", "Disabled"))
        }
    }
}

async fn show(visit: &Visit, rows: &Rows<Subscription>) -> Markup {
    if rows.is_empty() {
        return if visit.is_filtered() {
            parts::empty(
                visit,
                "list-filter",
                "No subscription matches",
                &html! {
                    p { a.button href=(visit.to("subscriptions")) { (visit.icon("x")) "Show all" } }
                },
            )
        } else {
            parts::empty(
                visit,
                "webhook",
                "No subscriptions yet",
                &html! {
                    p { "A subscription says which events go to which URL." }
                    @if visit.may_manage() {
                        p {
                            a.button.main href=(visit.to("subscriptions/new")) {
                                (visit.icon("plus")) "New subscription"
                            }
                        }
                    }
                },
            )
        };
    }
    html! {
        (table(visit, &rows.items).await)
        (rows.foot(visit, SubscriptionId::PREFIX, "subscriptions"))
    }
}

async fn table(visit: &Visit, subscriptions: &[Subscription]) -> Markup {
    let ids: Vec<_> = subscriptions.iter().map(|subscription| subscription.id.0).collect();
    let of: Vec<_> = subscriptions.iter().map(|one| (one.id, one.tenant_id.as_str())).collect();
    let (conditions, days) = tokio::join!(condition::read(visit.pool(), &ids), last_day(visit.pool(), &of, visit.now));
    // A list without conditions and numbers is better than none.
    let (conditions, days) = (conditions.unwrap_or_default(), days.unwrap_or_default());
    html! {
        table.cards {
            caption.unseen { "Subscriptions" }
            thead {
                tr {
                    th scope="col" { "State" }
                    th scope="col" { "Subscription" }
                    th scope="col" { "Receiver" }
                    th scope="col" { "Last 24 hours" }
                    th scope="col" { "Event types" }
                    @if visit.access.tenant().is_none() { th scope="col" { "Tenant" } }
                    th.wide scope="col" { "Created" }
                }
            }
            tbody {
                @for (place, subscription) in subscriptions.iter().enumerate() {
                    tr {
                        td { (parts::state(visit, subscription.state)) }
                        th scope="row" {
                            a.open href=(visit.to(format!("subscriptions/{}", subscription.id))) {
                                (name(subscription))
                            }
                            span.sub.clip { (host(subscription)) }
                        }
                        td data-label="Receiver" { (receiver(visit, conditions.get(&subscription.id.0))) }
                        td data-label="Last 24 hours" { (spark(days.get(place))) }
                        td data-label="Event types" { (patterns(subscription)) }
                        @if visit.access.tenant().is_none() {
                            td data-label="Tenant" { (subscription.tenant_id) }
                        }
                        td.wide data-label="Created" { (parts::time(visit, subscription.created_at)) }
                    }
                }
            }
        }
    }
}

/// The width of an hour's bar, and the height of the drawing, in units of the drawing.
const BAR: usize = 4;
const HEIGHT: u64 = 24;

/// What came of the attempts of the last 24 hours: a bar for each hour, the share of successes, and the time within
/// which 95 % of the attempts ended.
fn spark(day: Option<&LastDay>) -> Markup {
    let Some(day) = day else { return html! { span.sub { "not known" } } };
    let Some(rate) = day.all.success_rate() else { return html! { span.none { "–" } } };
    let most = day.hours.iter().map(|hour| hour.succeeded + hour.failed).max().unwrap_or(0).max(1);
    // What happened at all is seen, however little it was.
    let height = |part: u64| if part == 0 { 0 } else { (part * HEIGHT / most).max(2) };
    #[expect(clippy::cast_possible_truncation, reason = "times are far below the largest number")]
    let slow = day.all.durations().map(|times| parts::millis(times.p95.round() as i64));
    let (succeeded, failed) = (day.all.of_kind(Kind::Success), day.all.of_kind(Kind::Failure));
    let sentence = format!("In the last 24 hours, {succeeded} attempts succeeded and {failed} failed.");
    html! {
        svg.spark role="img" aria-label=(sentence) viewBox=(format!("0 0 {} {HEIGHT}", HOURS * BAR)) {
            title { (sentence) }
            @for (place, hour) in day.hours.iter().enumerate() {
                @let (good, bad) = (height(hour.succeeded), height(hour.failed));
                @if good > 0 {
                    rect.ok x=(place * BAR) y=(HEIGHT - good) width=(BAR - 1) height=(good) {}
                }
                @if bad > 0 {
                    rect.bad x=(place * BAR) y=(HEIGHT.saturating_sub(good + bad)) width=(BAR - 1) height=(bad) {}
                }
            }
        }
        span.sub {
            (format!("{:.1} %", (rate * 1000.0).floor() / 10.0)) " succeeded"
            @if let Some(slow) = slow { ", 95 % within " (slow) }
        }
    }
}

/// How the receiver has answered of late.
pub(crate) fn receiver(visit: &Visit, condition: Option<&Condition>) -> Markup {
    let Some(condition) = condition else { return html! { span.none { "–" } } };
    html! {
        @match condition.circuit {
            CircuitState::Closed => {}
            state => { (parts::circuit(visit, state)) }
        }
        @if let Some(since) = condition.failing_since {
            @if condition.circuit == CircuitState::Closed {
                (parts::badge(visit, Tone::Bad, "circle-x", "Failing"))
            }
            span.sub { "since " (parts::time(visit, since)) }
        }
        @if let Some(until) = condition.rests_until {
            (parts::badge(visit, Tone::Warn, "hourglass", "Asked to wait"))
            span.sub { "until " (parts::time(visit, until)) }
        }
        @if condition.circuit == CircuitState::Closed && condition.failing_since.is_none()
            && condition.rests_until.is_none() {
            span.sub { "No trouble" }
        }
    }
}

fn patterns(subscription: &Subscription) -> Markup {
    let all = subscription.settings.event_types.to_texts();
    html! {
        @if all.is_empty() { span.sub { "Every type" } }
        @for pattern in all.iter().take(PATTERNS_SHOWN) { code.tag { (pattern) } " " }
        @if all.len() > PATTERNS_SHOWN { span.sub { "and " (all.len() - PATTERNS_SHOWN) " more" } }
    }
}

/// A short list: the names, and how the receivers stand.
pub(crate) async fn brief(visit: &Visit, subscriptions: &[Subscription]) -> Markup {
    let ids: Vec<_> = subscriptions.iter().map(|subscription| subscription.id.0).collect();
    let conditions = condition::read(visit.pool(), &ids).await.unwrap_or_default();
    if subscriptions.is_empty() {
        return nothing();
    }
    html! {
        ul.brief {
            @for subscription in subscriptions {
                li {
                    div {
                        a href=(visit.to(format!("subscriptions/{}", subscription.id))) { (name(subscription)) }
                        span.sub.clip { (host(subscription)) }
                    }
                    div.end { (receiver(visit, conditions.get(&subscription.id.0))) }
                }
            }
        }
    }
}
