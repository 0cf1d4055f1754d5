//! The list of deliveries, and what can be done with all that match.

mod causes;
pub(crate) mod columns;
pub(crate) mod file;
pub(crate) mod filters;
pub(crate) mod selected;

use std::{collections::HashMap, sync::Arc};

use maud::{Markup, html};
use postrider_core::{
    delivery::{Delivery, Status, job::Action, list as delivery_list},
    id::{DeliveryId, SubscriptionId},
    subscription::Subscription,
    tally::class::Class,
};
use uuid::Uuid;

use crate::{
    serve::problem::ApiError,
    ui::{
        beside::{beside, opens},
        deliveries::{
            columns::Column,
            filters::{FILTERS, INLINE, ONLY_HERE, chips},
            selected::Ticks,
        },
        fields::Fields,
        jobs::new::link,
        page::{Page, Section, Visit},
        parts,
        rows::{Rows, window},
    },
};

/// The lists that show a delivery beside them.
const PAGES_WITH_BESIDE: [&str; 2] = ["deliveries", "dead-letters"];

/// The page.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let all = actions(visit);
    let list = match list(visit, None).await {
        Ok(rows) => show(visit, &rows, "Deliveries", &all).await,
        Err(error) => parts::trouble(visit, &error),
    };
    let body = html! {
        (parts::head(&parts::text("Deliveries"), &html! {
            "Each event that is owed to a subscription or a URL, the newest first."
        }, &html! { (all) (file::menu(visit)) }))
        div.choices { (chips(visit, &visit.path)) (filters::recent(visit)) }
        div.filter-row { (columns::menu(visit)) (filters::show(visit)) }
        (beside(visit, &list).await)
    };
    Ok(Page::new(Section::Deliveries, "Deliveries", body))
}

/// What can be done with all that match, whatever their number. It is counted before anything begins.
fn actions(visit: &Visit) -> Markup {
    // A job names the statuses one by one, and these are too many.
    let is_unnamed = visit.query.get(causes::CAUSE) == Some(Class::HttpOther.as_str());
    if !visit.may_manage() || is_unnamed || ONLY_HERE.iter().any(|name| visit.query.has(name)) {
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
            // A replay is about what was delivered first to a subscription, not about what a job has made.
            @if *action != Action::Replay || !["job_id", INLINE].iter().any(|name| visit.query.has(name)) {
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
    let filter = filters::filter(visit, only).await?;
    let found = delivery_list::list(visit.pool(), &filter, window(visit, |id: DeliveryId| id.0)?).await?;
    Ok(Rows::of(found, |delivery| delivery.id.0))
}

/// The rows with what stands below them, or what to do where there are none. `all` are links to what can be done with
/// all that match.
pub(crate) async fn show(visit: &Visit, rows: &Rows<Delivery>, caption: &str, all: &Markup) -> Markup {
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
    let status = visit.query.get("status").and_then(|status| status.parse().ok());
    let ticks = Ticks::of(visit, status);
    html! {
        (rows.newer(visit, DeliveryId::PREFIX, |delivery| delivery.id.0))
        (rows_of(visit, &rows.items, caption, ticks).await)
        (selected::bar(visit, status, all))
        (rows.foot(visit, DeliveryId::PREFIX, "deliveries"))
    }
}

/// Deliveries as a table to read; on a narrow screen, as cards.
pub(crate) async fn table(visit: &Visit, deliveries: &[Delivery], caption: &str) -> Markup {
    rows_of(visit, deliveries, caption, Ticks::None).await
}

async fn rows_of(visit: &Visit, deliveries: &[Delivery], caption: &str, ticks: Ticks) -> Markup {
    let receivers = Receivers::of(visit, deliveries).await;
    let shown = columns::shown(&visit.query);
    // The status stands before the event, and all else behind it.
    let (before, behind): (Vec<_>, Vec<_>) = shown.into_iter().partition(|column| *column == Column::Status);
    html! {
        table.cards {
            caption.unseen { (caption) }
            thead {
                tr {
                    (selected::head(ticks))
                    @for column in &before { (column.head()) }
                    th scope="col" { "Event" }
                    @for column in &behind { (column.head()) }
                }
            }
            tbody {
                @for delivery in deliveries {
                    tr.chosen[is_open(visit, delivery)] id=(delivery.id) data-status=(delivery.status) {
                        (selected::cell(ticks, delivery))
                        @for column in &before { (column.cell(visit, delivery, &receivers)) }
                        (named(visit, delivery))
                        @for column in &behind { (column.cell(visit, delivery, &receivers)) }
                    }
                }
            }
        }
    }
}

/// Whether a delivery is shown beside the list.
pub(crate) fn is_open(visit: &Visit, delivery: &Delivery) -> bool {
    visit.open() == Some(delivery.id.to_string().as_str())
}

/// The cell that names a delivery, with the link to it.
pub(crate) fn named(visit: &Visit, delivery: &Delivery) -> Markup {
    let has_beside = PAGES_WITH_BESIDE.contains(&visit.path.as_str());
    html! {
        th scope="row" {
            a.open href=(visit.to(format!("deliveries/{}", delivery.id)))
                aria-current=[is_open(visit, delivery).then_some("true")]
                data-beside=[has_beside.then(|| opens(visit, delivery))] {
                (delivery.event_type.as_deref().unwrap_or("(event removed)"))
            }
            span.sub.mono { (parts::short(delivery.id)) }
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
