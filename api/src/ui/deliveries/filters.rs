//! The filters of the list of deliveries: fields of the address, so a link shows the same list to others.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use maud::{Markup, html};
use postrider_core::{
    delivery::{Status, list::Filter},
    event::event_type::EventType,
    id::SubscriptionId,
};

use crate::{
    serve::{
        list::{destinations, metadata, min_attempts, origins, parsed, slower_than, span},
        problem::ApiError,
    },
    ui::{
        deliveries::{
            causes::{self, CAUSE},
            columns::COLUMNS,
        },
        fields::{CURSOR, Fields},
        page::Visit,
        parts,
    },
};

/// The filters besides the status, by their names in the API.
pub(super) const FILTERS: [&str; 13] = [
    "event_type",
    "subscription_id",
    "event_id",
    "job_id",
    "tenant_id",
    "metadata",
    SLOWER,
    ATTEMPTS,
    CAUSE,
    INLINE,
    REPLAYS,
    "since",
    "until",
];
/// The filters that a job does not have.
pub(super) const ONLY_HERE: [&str; 3] = [SLOWER, ATTEMPTS, REPLAYS];
const SLOWER: &str = "slower_than_ms";
const ATTEMPTS: &str = "min_attempts";
pub(super) const INLINE: &str = "inline_only";
const REPLAYS: &str = "replays_only";
/// The spans of time that one click chooses. They stay relative: a link to them means the last hour at any time.
const RECENT: [(&str, &str); 4] = [("15m", "15 min"), ("1h", "1 hour"), ("24h", "24 hours"), ("7d", "7 days")];

/// What the address asks for; of this subscription only, where one is given.
pub(super) async fn filter(visit: &Visit, only: Option<SubscriptionId>) -> Result<Filter, ApiError> {
    let fields = &visit.query;
    let entries = fields.all("metadata").map(str::to_owned).collect();
    Ok(Filter {
        tenant_id: visit.lists()?,
        subscription: if only.is_some() { only } else { visit.find_named("subscription_id").await? },
        event: visit.find_named("event_id").await?,
        job: visit.find_named("job_id").await?,
        status: parsed::<Status>("status", fields.get("status"))?,
        event_type: parsed::<EventType>("event_type", fields.get("event_type"))?,
        metadata: metadata(entries)?,
        slower_than_ms: slower_than(parsed(SLOWER, fields.get(SLOWER))?)?,
        min_attempts: min_attempts(parsed(ATTEMPTS, fields.get(ATTEMPTS))?)?,
        cause: parsed(CAUSE, fields.get(CAUSE))?,
        destinations: destinations(parsed(INLINE, fields.get(INLINE))?),
        origins: origins(parsed(REPLAYS, fields.get(REPLAYS))?),
        span: span(moment("since", fields.get("since"), visit.now)?, moment("until", fields.get("until"), visit.now)?)?,
    })
}

/// A time as the field of a form brings it: `2026-01-31T09:00`, which is UTC, a whole RFC 3339 time, or how long before
/// `now` it is, such as `15m`, `1h` or `7d`.
pub(crate) fn moment(field: &str, text: Option<&str>, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    if let Some(ago) = ago(text) {
        return Ok(Some(now - ago));
    }
    let local = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"];
    let local = local.iter().find_map(|shape| chrono::NaiveDateTime::parse_from_str(text, shape).ok());
    let whole = || DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc());
    let at = local.map(|local| local.and_utc()).or_else(whole);
    at.map(Some)
        .ok_or_else(|| ApiError::invalid(field, "must be a time such as 2026-01-31T09:00, or 1h for an hour ago"))
}

/// The length of time that a text such as `15m` says; `None` where it says none. Four digits at most are far less than
/// what a time can hold.
pub(crate) fn ago(text: &str) -> Option<TimeDelta> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: i64 = number.parse::<u16>().ok().filter(|number| *number < 10_000)?.into();
    match unit {
        "m" => Some(TimeDelta::minutes(number)),
        "h" => Some(TimeDelta::hours(number)),
        "d" => Some(TimeDelta::days(number)),
        _ => None,
    }
}

/// The fields of an address whose times are relative, with the times that are meant at `now`.
pub(crate) fn pinned(fields: &Fields, now: DateTime<Utc>) -> Fields {
    let names = ["since", "until", "dead_since", "dead_until"];
    names.iter().fold(fields.clone(), |fields, name| match fields.get(name).and_then(ago) {
        Some(ago) => {
            let at = (now - ago).to_rfc3339_opts(SecondsFormat::Millis, true);
            fields.with(name, Some(&at))
        }
        None => fields,
    })
}

/// A field for a time. One that is relative is shown as a text, because the browser's field for times would drop it.
pub(crate) fn time_field(fields: &Fields, name: &str, label: &str) -> Markup {
    let kind = if fields.get(name).and_then(ago).is_some() { "text" } else { "datetime-local" };
    parts::filter(fields, name, label, kind, "")
}

/// The statuses as links, so that one click filters.
pub(crate) fn chips(visit: &Visit, path: &str) -> Markup {
    let fields = visit.query.with(CURSOR, None);
    let chosen = visit.query.get("status");
    let chip = |status: Option<&str>, word: &str| {
        let link = visit.to(format!("{path}{}", fields.with("status", status).query()));
        html! { a href=(link) aria-current=[(chosen == status).then_some("true")] { (word) } }
    };
    html! {
        nav.chips aria-label="Status" {
            (chip(None, "All"))
            (chip(Some("pending"), "Pending"))
            (chip(Some("in_flight"), "In flight"))
            (chip(Some("succeeded"), "Succeeded"))
            (chip(Some("dead_letter"), "Dead letters"))
            (chip(Some("canceled"), "Canceled"))
        }
    }
}

/// The last hour and so on as links.
pub(crate) fn recent(visit: &Visit) -> Markup {
    let fields = visit.query.with(CURSOR, None);
    let chosen = visit.query.get("since");
    html! {
        nav.ranges aria-label="Time" {
            a href=(visit.with_query(&fields.with("since", None).with("until", None)))
                aria-current=[chosen.is_none().then_some("true")] { "Any time" }
            @for (since, word) in RECENT {
                a href=(visit.with_query(&fields.with("since", Some(since)).with("until", None)))
                    aria-current=[(chosen == Some(since)).then_some("true")] { (word) }
            }
        }
    }
}

/// The filters in use, and a form with all of them.
pub(super) fn show(visit: &Visit) -> Markup {
    let fields = &visit.query;
    let field = |name, label, kind, hint| parts::filter(fields, name, label, kind, hint);
    let tick = |name: &'static str, label: &'static str| {
        html! {
            label.tick {
                input type="checkbox" name=(name) value="true" checked[fields.get(name) == Some("true")];
                span { (label) }
            }
        }
    };
    // What is no filter stays where the filters go.
    let kept = ["status", COLUMNS].map(|name| fields.all(name).map(move |value| (name.to_owned(), value.to_owned())));
    let kept = Fields::of(kept.into_iter().flatten().collect());
    html! {
        (parts::in_use(visit, &FILTERS))
        details.filters {
            summary { (visit.icon("list-filter")) "Filters" }
            form method="get" action=(visit.to("deliveries")) {
                @for (name, value) in kept.pairs() { input type="hidden" name=(name) value=(value); }
                (field("event_type", "Event type", "text", "order.created"))
                (field("subscription_id", "Subscription", "text", "sub_…"))
                (field("event_id", "Event", "text", "evt_…"))
                (field("job_id", "Made by the job", "text", "job_…"))
                @if visit.access.tenant().is_none() { (field("tenant_id", "Tenant", "text", "acme")) }
                (field("metadata", "Metadata", "text", "region:eu"))
                (field(SLOWER, "Slower than (ms)", "number", "5000"))
                (field(ATTEMPTS, "Attempts, at least", "number", "3"))
                (causes::field(fields))
                (time_field(fields, "since", "Since (UTC)"))
                (time_field(fields, "until", "Until (UTC)"))
                fieldset.ticks {
                    legend { "Only" }
                    (tick(INLINE, "inline deliveries, which go to a URL"))
                    (tick(REPLAYS, "replays"))
                }
                div.do {
                    button.button.main type="submit" { "Apply" }
                    a.button href=(visit.to(format!("deliveries{}", kept.query()))) { "Clear" }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_relative() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let at = |text| moment("since", Some(text), now).ok().flatten();
        assert_eq!(at("15m"), Some(now - TimeDelta::minutes(15)));
        assert_eq!(at("7d"), Some(now - TimeDelta::days(7)));
        assert_eq!(at("2027-01-15T08:00"), Some(now));
        assert_eq!(at("2027-01-15T09:00:00+01:00"), Some(now));
        for wrong in ["h", "-1h", "1w", "99999d", "é", "yesterday"] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }
}
