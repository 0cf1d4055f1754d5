//! One event: what was posted, who gets it, and having it delivered again.

pub(crate) mod payload;

use maud::{Markup, html};
use postrider_core::{
    delivery::{
        list as delivery_list,
        replay_now::{self, To},
    },
    event::{self, Event, idempotency::Creation},
    id::{EventId, SubscriptionId},
};

use crate::{
    events::matching,
    serve::problem::ApiError,
    ui::{
        deliveries,
        events::posted_to,
        fields::{Fields, query},
        page::{Next, Note, Page, Section, Visit},
        parts::{self, Tone, facts, nothing, panel},
        rows,
    },
};

/// Deliveries that the page shows; the list has the others.
const DELIVERIES_MAX: i64 = 20;

/// The page.
pub(crate) async fn page(visit: &Visit, id: &str) -> Result<Page, ApiError> {
    let id: EventId = visit.find(id).await?;
    let event = event::get(visit.pool(), id).await?;
    let all =
        html! { a href=(visit.to(format!("deliveries{}", query([("event_id", id.to_string().as_str())])))) { "All" } };
    let body = html! {
        (parts::head(&parts::text(&event.event_type), &parts::id(visit, id), &actions(visit, id)))
        (panel("What it is", &nothing(), &what(visit, &event)))
        (panel("Deliveries", &all, &owed(visit, id).await))
        (payload::show(visit, &event).await)
        (panel("Does a subscription want it?", &nothing(), &wanted(visit, &event).await))
    };
    Ok(Page::new(Section::Events, event.event_type.clone(), body))
}

fn actions(visit: &Visit, id: EventId) -> Markup {
    html! {
        @if visit.may_manage() {
            details.sure {
                summary.button { (visit.icon("history")) "Replay…" }
                div.card {
                    p { "Fresh deliveries are made of the event. What was delivered stays as it is." }
                    form method="post" action=(visit.to(format!("events/{id}/replay"))) {
                        button.button.main type="submit" name="to" value="missing" { "To those who missed it" }
                        button.button type="submit" name="to" value="all" { "To all who want it" }
                    }
                }
            }
        }
    }
}

fn what(visit: &Visit, event: &Event) -> Markup {
    let mut pairs = vec![
        (
            "Posted to",
            match event.subscription_id.map(SubscriptionId) {
                Some(id) => html! { a href=(visit.to(format!("subscriptions/{id}"))) { (parts::short(id)) } },
                None => posted_to(event),
            },
        ),
        ("Tenant", parts::text(&event.tenant_id)),
        ("Accepted", parts::time(visit, event.created_at)),
        ("Payload", html! { (parts::bytes(event.payload_bytes.into())) " of " (event.content_type) }),
    ];
    if let Some(id) = &event.external_id {
        pairs.push(("Your id", parts::text(id)));
    }
    if let Some(key) = &event.ordering_key {
        pairs.push(("Ordering key", parts::text(key)));
    }
    if let Some(at) = event.deliver_at {
        pairs.push(("Deliver at", parts::time(visit, at)));
    }
    if let Some(at) = event.expires_at {
        pairs.push(("Expires", parts::time(visit, at)));
    }
    if let Some(trace) = event.trace() {
        pairs.push(("Trace", html! { code.mono { (trace.trace_id()) } }));
    }
    let entries = event.metadata.clone().map(|metadata| metadata.0.into_entries()).unwrap_or_default();
    if !entries.is_empty() {
        pairs.push(("Metadata", html! { @for (key, value) in &entries { code.tag { (key) ": " (value) } " " } }));
    }
    facts(&pairs)
}

async fn owed(visit: &Visit, id: EventId) -> Markup {
    let filter = delivery_list::Filter { event: Some(id), ..delivery_list::Filter::default() };
    match delivery_list::list(visit.pool(), &filter, rows::first(DELIVERIES_MAX)).await {
        Ok(found) if found.items.is_empty() => parts::empty(
            visit,
            "send",
            "Nobody gets it",
            &html! {
                p { "No subscription wanted the event when it was accepted." }
            },
        ),
        Ok(found) => deliveries::table(visit, &found.items, "Deliveries of this event").await,
        Err(error) => parts::trouble(visit, &error.into()),
    }
}

/// A form that asks about a subscription, and the answer: each rule, and what the event has there.
async fn wanted(visit: &Visit, event: &Event) -> Markup {
    let asked = visit.query.get("subscription");
    let answer = match asked {
        Some(_) => match judged(visit, event).await {
            Ok(answer) => answer,
            Err(error) => parts::trouble(visit, &error),
        },
        None => nothing(),
    };
    html! {
        form.inline method="get" action=(visit.to(&visit.path)) {
            div.field {
                label for="subscription" { "The id of the subscription" }
                input.mono #subscription name="subscription" type="text" value=(asked.unwrap_or_default())
                    placeholder="sub_…" autocomplete="off" spellcheck="false";
            }
            button.button type="submit" { "Explain" }
        }
        (answer)
    }
}

async fn judged(visit: &Visit, event: &Event) -> Result<Markup, ApiError> {
    let id: SubscriptionId = visit.find(visit.query.text("subscription").trim()).await?;
    let subscription = visit.subscriptions().get(id).await?;
    let payload = event::payload(visit.pool(), EventId(event.id)).await?;
    let checks = matching::checks(event, &payload, &subscription)?;
    let wants = checks.iter().all(|check| check.holds);
    Ok(html! {
        p {
            a href=(visit.to(format!("subscriptions/{id}"))) { (deliveries::name(&subscription)) }
            @if wants { " wants this event, as it is now." } @else { " does not want this event, as it is now." }
        }
        ul.checks {
            @for check in &checks {
                li {
                    @if check.holds { (parts::badge(visit, Tone::Ok, "check", "Holds")) }
                    @else { (parts::badge(visit, Tone::Bad, "x", "Fails")) }
                    code { (check.rule) }
                    @if let Some(found) = &check.found { span.sub { "has " code { (found) } } }
                }
            }
        }
    })
}

/// Makes fresh deliveries of an event.
pub(crate) async fn replay(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: EventId = visit.find(id).await?;
    let to = if form.get("to") == Some("all") { To::All } else { To::Missing };
    let app = &visit.app;
    let made = replay_now::of_event(&app.pool, &app.keyring, &app.cache, (id, to), None, |_| Vec::new()).await?;
    let made = match made {
        Creation::Now(made) => made.len(),
        // Only a request with an idempotency key gets an earlier answer, and a form has none.
        Creation::Before(_) => 0,
    };
    let note = match made {
        0 => Note::Refused("No delivery was made: nobody has missed it, or nobody wants it.".to_owned()),
        1 => Note::Done("One fresh delivery was made.".to_owned()),
        made => Note::Done(format!("{made} fresh deliveries were made.")),
    };
    Ok(Next::Go(format!("events/{id}"), note))
}
