//! The list of dead letters, and what can be decided about each.

use maud::{Markup, html};
use postrider_core::{
    delivery::dead_letter::{self, DeadLetter, Filter, Resolved},
    id::{DeliveryId, SubscriptionId},
};

use crate::{
    serve::{list::span, problem::ApiError},
    ui::{
        deliveries::{Receivers, answer, moment},
        fields::{Fields, is_own_path},
        page::{Next, Page, Section, Visit},
        parts::{self, Button, Tone, Weight, nothing},
        rows::{Rows, window},
    },
};

/// The page.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let list = match list(visit).await {
        Ok(rows) => show(visit, &rows).await,
        Err(error) => parts::trouble(visit, &error),
    };
    let body = html! {
        (parts::head(&parts::text("Dead letters"), &html! {
            "Deliveries that ran out of attempts, or were refused for good. Retry them, or mark them as resolved."
        }, &nothing()))
        (chips(visit))
        section.panel #list { (list) }
    };
    Ok(Page::new(Section::DeadLetters, "Dead letters", body))
}

async fn list(visit: &Visit) -> Result<Rows<DeadLetter>, ApiError> {
    let fields = &visit.query;
    let times = span(moment("since", fields.get("since"))?, moment("until", fields.get("until"))?)?;
    let filter = Filter {
        tenant_id: visit.access.lists(fields.get("tenant_id"))?,
        subscription: visit.find_named("subscription_id").await?,
        since: times.since,
        until: times.until,
        resolved: if fields.has("include_resolved") { Resolved::Included } else { Resolved::Excluded },
    };
    let found = dead_letter::list(visit.pool(), &filter, window(visit, |id: DeliveryId| id.0)?).await?;
    Ok(Rows::of(found, |letter| letter.delivery.id.0))
}

fn chips(visit: &Visit) -> Markup {
    let fields = visit.query.with("cursor", None);
    let all = fields.has("include_resolved");
    let link = |fields: Fields| visit.to(format!("dead-letters{}", fields.query()));
    html! {
        nav.chips aria-label="Filters" {
            a href=(link(fields.with("include_resolved", None))) aria-current=[(!all).then_some("true")] { "To decide" }
            a href=(link(fields.with("include_resolved", Some("true")))) aria-current=[all.then_some("true")] {
                "Resolved ones too"
            }
            @if let Some(id) = fields.get("subscription_id") {
                a href=(link(fields.with("subscription_id", None))) aria-current="true" {
                    "Only " (parts::short(id)) (visit.icon("x"))
                }
            }
        }
    }
}

async fn show(visit: &Visit, rows: &Rows<DeadLetter>) -> Markup {
    if rows.is_empty() {
        return parts::empty(
            visit,
            "inbox",
            "Nothing to decide",
            &html! {
                p { "No delivery waits here. What runs out of attempts comes to this list." }
            },
        );
    }
    let deliveries: Vec<_> = rows.items.iter().map(|letter| letter.delivery.clone()).collect();
    let receivers = Receivers::of(visit, &deliveries).await;
    html! {
        table.cards {
            caption.unseen { "Dead letters" }
            thead {
                tr {
                    th scope="col" { "Event" }
                    th scope="col" { "Receiver" }
                    th scope="col" { "Last answer" }
                    th.number scope="col" { "Attempts" }
                    th scope="col" { "Given up" }
                    @if visit.may_manage() { th scope="col" { span.unseen { "What can be done" } } }
                }
            }
            tbody { @for letter in &rows.items { (row(visit, letter, &receivers)) } }
        }
        (rows.foot(visit, DeliveryId::PREFIX, "dead letters"))
    }
}

fn row(visit: &Visit, letter: &DeadLetter, receivers: &Receivers) -> Markup {
    let delivery = &letter.delivery;
    let button = |action: &str, icon, word| Button {
        action: format!("dead-letters/{}/{action}", delivery.id),
        icon,
        word,
        weight: Weight::Usual,
    };
    html! {
        tr {
            th scope="row" {
                a.open href=(visit.to(format!("deliveries/{}", delivery.id))) {
                    (delivery.event_type.as_deref().unwrap_or("(event removed)"))
                }
                span.sub.mono { (parts::short(delivery.id)) }
            }
            td data-label="Receiver" {
                @match delivery.subscription_id {
                    Some(id) => a.clip href=(visit.to(format!("subscriptions/{}", SubscriptionId(id)))) {
                        (receivers.name(delivery))
                    },
                    None => span.clip { (receivers.name(delivery)) },
                }
            }
            td data-label="Last answer" { (answer(delivery)) }
            td.number data-label="Attempts" { (delivery.attempt_count) }
            td data-label="Given up" {
                (parts::time(visit, letter.dead_at))
                @if let Some(at) = letter.resolved_at {
                    " " (parts::badge(visit, Tone::Ok, "check", "Resolved")) " " span.sub { (parts::time(visit, at)) }
                }
            }
            @if visit.may_manage() {
                td.do {
                    (button("retry", "rotate-cw", "Retry").form(visit))
                    @if letter.resolved_at.is_none() { (button("resolve", "check", "Resolve").form(visit)) }
                }
            }
        }
    }
}

/// Marks a dead letter as resolved.
pub(crate) async fn resolve(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: DeliveryId = visit.find(id).await?;
    dead_letter::resolve(&visit.app.pool, id).await?;
    let back = form.get("back").filter(|path| is_own_path(path)).unwrap_or("dead-letters");
    Ok(Next::done(back, "The dead letter is marked as resolved."))
}
