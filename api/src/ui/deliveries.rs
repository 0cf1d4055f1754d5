//! The list of deliveries, with its filters. Filters are fields of the address, so a link shows the same list to
//! others.

use std::{collections::HashMap, sync::Arc};

use maud::{Markup, html};
use postrider_core::{
    delivery::{Delivery, Status, job::Action, list as delivery_list},
    event::event_type::EventType,
    id::{DeliveryId, SubscriptionId},
    subscription::Subscription,
};
use uuid::Uuid;

use crate::{
    serve::{
        list::{metadata, parsed, slower_than, span},
        problem::ApiError,
    },
    ui::{
        fields::{Fields, query},
        jobs::new::link,
        page::{Page, Section, Visit},
        parts,
        rows::{Rows, window},
    },
};

/// The filters besides the status, by their names in the API.
const FILTERS: [&str; 9] =
    ["event_type", "subscription_id", "event_id", "job_id", "tenant_id", "metadata", SLOWER, "since", "until"];
/// The filter that a job does not have.
const SLOWER: &str = "slower_than_ms";

/// The page.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let list = match list(visit, None).await {
        Ok(rows) => show(visit, &rows, "Deliveries").await,
        Err(error) => parts::trouble(visit, &error),
    };
    let body = html! {
        (parts::head(&parts::text("Deliveries"), &html! {
            "Each event that is owed to a subscription or a URL, the newest first."
        }, &actions(visit)))
        (chips(visit, &visit.path))
        (filters(visit))
        section.panel #list { (list) }
    };
    Ok(Page::new(Section::Deliveries, "Deliveries", body))
}

/// What can be done with all that match, whatever their number. It is counted before anything begins.
fn actions(visit: &Visit) -> Markup {
    if !visit.may_manage() || visit.query.has(SLOWER) {
        return parts::nothing();
    }
    let status = visit.query.get("status").map(str::parse::<Status>);
    let of_status: &[(Action, &str, &str)] = match status {
        None => {
            &[(Action::Retry, "dead_letter", "Retry dead letters"), (Action::Cancel, "pending", "Cancel pending ones")]
        }
        Some(Ok(Status::Pending)) => {
            &[(Action::Retry, "pending", "Attempt all now"), (Action::Cancel, "pending", "Cancel all")]
        }
        Some(Ok(Status::Succeeded)) => &[(Action::Replay, "succeeded", "Replay all")],
        Some(Ok(Status::DeadLetter)) => &[
            (Action::Retry, "dead_letter", "Retry all"),
            (Action::Replay, "dead_letter", "Replay all"),
            (Action::Resolve, "dead_letter", "Resolve all"),
        ],
        Some(Ok(Status::Canceled)) => {
            &[(Action::Retry, "canceled", "Retry all"), (Action::Replay, "canceled", "Replay all")]
        }
        // A worker is attempting them, so nothing can be done with them.
        Some(Ok(Status::InFlight) | Err(_)) => &[],
    };
    html! {
        @for (action, status, label) in of_status {
            // A replay is about what was delivered first, not about what a job has made.
            @if *action != Action::Replay || !visit.query.has("job_id") {
                (link(visit, *action, &for_job(&visit.query, *action, status).pairs().collect::<Vec<_>>(), label))
            }
        }
    }
}

/// The fields of this page as fields of a job's filter.
fn for_job(fields: &Fields, action: Action, status: &str) -> Fields {
    let own = FILTERS
        .into_iter()
        .filter(|name| *name != "event_type")
        .flat_map(|name| fields.all(name).map(move |value| (name.to_owned(), value.to_owned())));
    let types = fields.all("event_type").map(|value| ("event_types".to_owned(), value.to_owned()));
    let mut all: Vec<_> = [("statuses".to_owned(), status.to_owned())].into_iter().chain(types).chain(own).collect();
    // This list shows resolved dead letters, too.
    if action == Action::Retry && status == "dead_letter" && fields.has("status") {
        all.push(("include_resolved".to_owned(), "true".to_owned()));
    }
    Fields::of(all)
}

/// Reads the part of the list that the address asks for; of this subscription only, where one is given.
pub(crate) async fn list(visit: &Visit, only: Option<SubscriptionId>) -> Result<Rows<Delivery>, ApiError> {
    let fields = &visit.query;
    let entries = fields.all("metadata").map(str::to_owned).collect();
    let filter = delivery_list::Filter {
        tenant_id: visit.lists()?,
        subscription: if only.is_some() { only } else { visit.find_named("subscription_id").await? },
        event: visit.find_named("event_id").await?,
        job: visit.find_named("job_id").await?,
        status: parsed::<Status>("status", fields.get("status"))?,
        event_type: parsed::<EventType>("event_type", fields.get("event_type"))?,
        metadata: metadata(entries)?,
        slower_than_ms: slower_than(parsed(SLOWER, fields.get(SLOWER))?)?,
        span: span(moment("since", fields.get("since"))?, moment("until", fields.get("until"))?)?,
    };
    let found = delivery_list::list(visit.pool(), &filter, window(visit, |id: DeliveryId| id.0)?).await?;
    Ok(Rows::of(found, |delivery| delivery.id.0))
}

/// A time as the field of a form brings it: `2026-01-31T09:00`, which is UTC, or a whole RFC 3339 time.
pub(crate) fn moment(field: &str, text: Option<&str>) -> Result<Option<chrono::DateTime<chrono::Utc>>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let local = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"];
    let local = local.iter().find_map(|shape| chrono::NaiveDateTime::parse_from_str(text, shape).ok());
    let whole = || chrono::DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc());
    let at = local.map(|local| local.and_utc()).or_else(whole);
    at.map(Some).ok_or_else(|| ApiError::invalid(field, "must be a time such as 2026-01-31T09:00"))
}

/// The rows with what stands below them, or what to do where there are none.
pub(crate) async fn show(visit: &Visit, rows: &Rows<Delivery>, caption: &str) -> Markup {
    if rows.is_empty() {
        return if visit.is_filtered() {
            parts::empty(
                visit,
                "list-filter",
                "No delivery matches",
                &html! {
                    p { a.button href=(visit.to(&visit.path)) { (visit.icon("x")) "Clear the filters" } }
                },
            )
        } else {
            parts::empty(
                visit,
                "send",
                "No deliveries yet",
                &html! {
                    p { "A delivery comes to be when an event is posted that a subscription wants." }
                    p { a.button.main href=(visit.to("subscriptions/new")) { "Create a subscription" } }
                },
            )
        };
    }
    html! {
        (table(visit, &rows.items, caption).await)
        (rows.foot(visit, DeliveryId::PREFIX, "deliveries"))
    }
}

/// Deliveries as a table; on a narrow screen, as cards.
pub(crate) async fn table(visit: &Visit, deliveries: &[Delivery], caption: &str) -> Markup {
    let receivers = Receivers::of(visit, deliveries).await;
    html! {
        table.cards {
            caption.unseen { (caption) }
            thead {
                tr {
                    th scope="col" { "Status" }
                    th scope="col" { "Event" }
                    th scope="col" { "Receiver" }
                    th scope="col" { "Last answer" }
                    th.number scope="col" { "Attempts" }
                    th scope="col" { "Next attempt" }
                    th scope="col" { "Created" }
                }
            }
            tbody {
                @for delivery in deliveries {
                    tr {
                        td { (parts::status(visit, delivery.status)) }
                        th scope="row" {
                            a.open href=(visit.to(format!("deliveries/{}", delivery.id))) {
                                (delivery.event_type.as_deref().unwrap_or("(event removed)"))
                            }
                            span.sub.mono { (parts::short(delivery.id)) }
                        }
                        td data-label="Receiver" { (receivers.cell(delivery)) }
                        td data-label="Last answer" { (answer(delivery)) }
                        td.number data-label="Attempts" { (delivery.attempt_count) }
                        td data-label="Next attempt" { (parts::maybe_time(visit, delivery.next_attempt_at)) }
                        td data-label="Created" { (parts::time(visit, delivery.created_at)) }
                    }
                }
            }
        }
    }
}

/// What the receiver said last: a status, or why there is none.
pub(crate) fn answer(delivery: &Delivery) -> Markup {
    match (delivery.last_status_code, &delivery.last_error) {
        (Some(code), _) => html! { span.code data-class=(code / 100) { (code) } },
        (None, Some(error)) => html! { span.why title=(error) { (error) } },
        (None, None) => html! { span.none { "–" } },
    }
}

/// The subscriptions of a page's deliveries, by which rows name their receivers.
pub(crate) struct Receivers(HashMap<Uuid, Arc<Subscription>>);

impl Receivers {
    /// Looks up the subscriptions; one that was deleted, or could not be read, is missing.
    pub(crate) async fn of(visit: &Visit, deliveries: &[Delivery]) -> Self {
        let mut known = HashMap::new();
        for id in deliveries.iter().filter_map(|delivery| delivery.subscription_id) {
            if !known.contains_key(&id)
                && let Ok(Some(subscription)) = visit.app.cache.get(SubscriptionId(id)).await
            {
                known.insert(id, subscription);
            }
        }
        Self(known)
    }

    /// The name of a delivery's receiver, or else its host.
    pub(crate) fn name(&self, delivery: &Delivery) -> String {
        let subscription = delivery.subscription_id.and_then(|id| self.0.get(&id));
        match (subscription, &delivery.target_url) {
            (Some(subscription), _) => name(subscription),
            (None, Some(url)) => url.clone(),
            (None, None) => delivery.subscription_id.map_or_else(String::new, |id| parts::short(SubscriptionId(id))),
        }
    }

    fn cell(&self, delivery: &Delivery) -> Markup {
        let host = delivery.subscription_id.and_then(|id| self.0.get(&id)).map(|subscription| host(subscription));
        html! {
            span.clip { (self.name(delivery)) }
            @match host {
                Some(host) => { span.sub.clip { (host) } }
                None if delivery.target_url.is_some() => { span.sub { "inline delivery" } }
                None => { span.sub { "subscription deleted" } }
            }
        }
    }
}

/// What people call a subscription: its name, or else the host of its target.
pub(crate) fn name(subscription: &Subscription) -> String {
    let name = subscription.settings.name.as_ref().map(|name| name.as_str().to_owned());
    name.unwrap_or_else(|| host(subscription))
}

/// The host of a subscription's target, with its port where that is not the usual one.
pub(crate) fn host(subscription: &Subscription) -> String {
    let url = subscription.settings.target_url.as_url();
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The statuses as links, so that one click filters.
pub(crate) fn chips(visit: &Visit, path: &str) -> Markup {
    let fields = visit.query.with("cursor", None);
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

fn filters(visit: &Visit) -> Markup {
    let fields = &visit.query;
    let field = |name, label, kind, hint| parts::filter(fields, name, label, kind, hint);
    html! {
        (parts::in_use(visit, &FILTERS))
        details.filters {
            summary { (visit.icon("list-filter")) "Filters" }
            form method="get" action=(visit.to("deliveries")) {
                @if let Some(status) = fields.get("status") { input type="hidden" name="status" value=(status); }
                (field("event_type", "Event type", "text", "order.created"))
                (field("subscription_id", "Subscription", "text", "sub_…"))
                (field("event_id", "Event", "text", "evt_…"))
                (field("job_id", "Made by the job", "text", "job_…"))
                @if visit.access.tenant().is_none() { (field("tenant_id", "Tenant", "text", "acme")) }
                (field("metadata", "Metadata", "text", "region:eu"))
                (field(SLOWER, "Slower than (ms)", "number", "5000"))
                (field("since", "Since (UTC)", "datetime-local", ""))
                (field("until", "Until (UTC)", "datetime-local", ""))
                div.do {
                    button.button.main type="submit" { "Apply" }
                    a.button href=(visit.to(format!("deliveries{}", query([("status", fields.text("status"))])))) {
                        "Clear"
                    }
                }
            }
        }
    }
}
