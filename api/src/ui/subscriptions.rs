//! The list of subscriptions, with its filters.

use maud::{Markup, html};
use postrider_core::{
    event::event_type::EventType,
    id::SubscriptionId,
    stats::{
        damage::{self, Failing, RANKED_MAX},
        last_day::{HOURS, LastDay, last_day},
    },
    subscription::{
        State, Subscription,
        circuit::CircuitState,
        condition::{self, Condition},
        counts::{self, COUNTED_MAX},
        list::{Filter, Host, Receiver},
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
        fields::{CURSOR, TENANT},
        page::{Page, Section, Visit},
        parts::{self, Tone},
        rows::{Rows, window},
    },
};

/// Subscriptions that a list by failures shows, at most.
const FAILING_SHOWN_MAX: usize = 50;
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
        (filters(visit))
        section.panel #list { (list) }
    };
    Ok(Page::new(Section::Subscriptions, "Subscriptions", body))
}

/// The filters besides state and health, by their names in the API.
const FILTERS: [&str; 3] = ["event_type", "host", "metadata"];
/// The field with the order, and its only value besides the usual one.
const SORT: &str = "sort";
const BY_FAILURES: &str = "failures";

/// What a page shows: a part of the list, or those that fail most, with how often they did.
enum Shown {
    Newest(Rows<Subscription>),
    ByFailures(Vec<Failing>),
}

async fn list(visit: &Visit) -> Result<Shown, ApiError> {
    let fields = &visit.query;
    let entries = fields.all("metadata").map(str::to_owned).collect();
    let filter = Filter {
        tenant_id: visit.lists()?,
        state: parsed::<State>("state", fields.get("state"))?,
        metadata: metadata(entries)?,
        circuit: parsed::<CircuitState>("circuit", fields.get("circuit"))?,
        receiver: fields.has("failing").then_some(Receiver::Failing),
        event_type: parsed::<EventType>("event_type", fields.get("event_type"))?,
        host: parsed::<Host>("host", fields.get("host"))?,
    };
    match fields.get(SORT) {
        None => {
            let found = visit.subscriptions().list(&filter, window(visit, |id: SubscriptionId| id.0)?).await?;
            Ok(Shown::Newest(Rows::of(found, |subscription| subscription.id.0)))
        }
        Some(BY_FAILURES) => {
            let (pool, store) = (visit.pool(), visit.subscriptions());
            Ok(Shown::ByFailures(damage::list(pool, store, &filter, FAILING_SHOWN_MAX, visit.now).await?))
        }
        Some(_) => Err(ApiError::invalid(SORT, "must be `failures`, or absent")),
    }
}

fn chips(visit: &Visit) -> Markup {
    // What the chips choose besides what the form below them does.
    let fields =
        [CURSOR, "state", "circuit", "failing"].iter().fold(visit.query.clone(), |all, name| all.with(name, None));
    let chip = |field: &str, value: &str, word: &str| {
        let chosen = visit.query.get(field) == Some(value);
        let link = visit.with_query(&fields.with(field, Some(value)));
        html! { a href=(link) aria-current=[chosen.then_some("true")] { (word) } }
    };
    let is_all = ["state", "circuit", "failing"].iter().all(|name| !visit.query.has(name));
    let order = |value: Option<&str>, word: &str| {
        let link = visit.with_query(&visit.query.with(CURSOR, None).with(SORT, value));
        html! { a href=(link) aria-current=[(visit.query.get(SORT) == value).then_some("true")] { (word) } }
    };
    html! {
        div.choices {
            nav.chips aria-label="State" {
                a href=(visit.with_query(&fields)) aria-current=[is_all.then_some("true")] { "All" }
                (chip("failing", "true", "Failing"))
                (chip("circuit", "open", "Circuit open"))
                (chip("state", "active", "Active"))
                (chip("state", "paused", "Paused"))
                (chip("state", "disabled", "Disabled"))
            }
            nav.ranges aria-label="Order" { (order(None, "Newest")) (order(Some(BY_FAILURES), "Most failures")) }
        }
    }
}

/// The filters in use, and a form with all of them.
fn filters(visit: &Visit) -> Markup {
    let fields = &visit.query;
    let field = |name, label, hint| parts::filter(fields, name, label, "text", hint);
    html! {
        (parts::in_use(visit, &FILTERS))
        details.filters {
            summary { (visit.icon("list-filter")) "Filters" }
            form method="get" action=(visit.to_all("subscriptions")) {
                @for name in ["state", "circuit", "failing", SORT, TENANT] {
                    @if let Some(value) = fields.get(name) { input type="hidden" name=(name) value=(value); }
                }
                (field("event_type", "Wants the event type", "order.created"))
                (field("host", "Host of the target", "example.com"))
                (field("metadata", "Metadata", "region:eu"))
                div.do {
                    button.button.main type="submit" { "Apply" }
                    a.button href=(visit.to("subscriptions")) { "Clear" }
                }
            }
        }
    }
}

async fn show(visit: &Visit, shown: &Shown) -> Markup {
    let rows = match shown {
        Shown::ByFailures(found) if found.is_empty() => {
            let body = html! { p { "No attempt that matches has failed in the last hour." } };
            return parts::empty(visit, "circle-check", "Nothing fails", &body);
        }
        Shown::ByFailures(found) => {
            let (subscriptions, failed): (Vec<_>, Vec<_>) = found.iter().cloned().unzip();
            return html! {
                (table(visit, &subscriptions, &failed).await)
                p.hint {
                    "Those with the most failed attempts in the last hour. The " (FAILING_SHOWN_MAX)
                    " first ones of at most " (parts::count(RANKED_MAX)) " are shown."
                }
            };
        }
        Shown::Newest(rows) => rows,
    };
    if rows.is_empty() {
        return nothing_found(visit);
    }
    html! {
        (table(visit, &rows.items, &[]).await)
        (rows.foot(visit, SubscriptionId::PREFIX, "subscriptions"))
    }
}

fn nothing_found(visit: &Visit) -> Markup {
    if visit.is_filtered() {
        let all = html! { p { a.button href=(visit.to("subscriptions")) { (visit.icon("x")) "Show all" } } };
        return parts::empty(visit, "list-filter", "No subscription matches", &all);
    }
    let body = html! {
        p { "A subscription says which events go to which URL." }
        @if visit.may_manage() {
            p { a.button.main href=(visit.to("subscriptions/new")) { (visit.icon("plus")) "New subscription" } }
        }
    };
    parts::empty(visit, "webhook", "No subscriptions yet", &body)
}

/// The rows. Where `failed` has a number for each, it says how many attempts of the last hour have failed.
async fn table(visit: &Visit, subscriptions: &[Subscription], failed: &[u64]) -> Markup {
    let ids: Vec<_> = subscriptions.iter().map(|subscription| subscription.id.0).collect();
    let of: Vec<_> = subscriptions.iter().map(|one| (one.id, one.tenant_id.as_str())).collect();
    let (conditions, days, counts) = tokio::join!(
        condition::read(visit.pool(), &ids),
        last_day(visit.pool(), &of, visit.now),
        counts::read(visit.pool(), &ids)
    );
    // A list without conditions and numbers is better than none.
    let (conditions, days, counts) = (conditions.unwrap_or_default(), days.unwrap_or_default(), counts.ok());
    html! {
        table.cards {
            caption.unseen { "Subscriptions" }
            thead {
                tr {
                    th scope="col" { "State" }
                    th scope="col" { "Subscription" }
                    th scope="col" { "Receiver" }
                    @if !failed.is_empty() { th.number scope="col" { "Failed" } }
                    th scope="col" { "Last 24 hours" }
                    th.number scope="col" { "Waiting" }
                    th.number scope="col" { "Dead" }
                    th.wide scope="col" { "Event types" }
                    @if visit.access.tenant().is_none() { th.wide scope="col" { "Tenant" } }
                    @if failed.is_empty() { th.wide scope="col" { "Created" } }
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
                        @if let Some(failed) = failed.get(place) {
                            td.number data-label="Failed" {
                                (parts::count(i64::try_from(*failed).unwrap_or(i64::MAX)))
                            }
                        }
                        td data-label="Last 24 hours" { (spark(days.get(place))) }
                        @let of = counts.as_ref().map(|counts| counts.get(&subscription.id.0).copied());
                        @let of = of.map(Option::unwrap_or_default);
                        td.number data-label="Waiting" {
                            (counted(visit, of.map(|of| of.waiting), subscription, "deliveries", "&status=pending"))
                        }
                        td.number data-label="Dead" {
                            (counted(visit, of.map(|of| of.dead), subscription, "dead-letters", "&view=list"))
                        }
                        td.wide data-label="Event types" { (patterns(subscription)) }
                        @if visit.access.tenant().is_none() {
                            td.wide data-label="Tenant" { (subscription.tenant_id) }
                        }
                        @if failed.is_empty() {
                            td.wide data-label="Created" { (parts::time(visit, subscription.created_at)) }
                        }
                    }
                }
            }
        }
    }
}

/// A count, with a link to what it counts.
fn counted(visit: &Visit, count: Option<i64>, subscription: &Subscription, list: &str, more: &str) -> Markup {
    let link = visit.to(format!("{list}?subscription_id={}{more}", subscription.id));
    html! {
        @match count {
            None => span.sub { "not known" },
            Some(0) => span.none { "0" },
            Some(count) => a href=(link) { (parts::count(count)) @if count >= COUNTED_MAX { "+" } },
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
            span.whole {
                (format!("{:.1} %", (rate * 1000.0).floor() / 10.0)) " succeeded" @if slow.is_some() { "," }
            }
            @if let Some(slow) = slow { " " span.whole { "95 % within " (slow) } }
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
