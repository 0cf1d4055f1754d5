//! The list of events, with its filters, and the form that posts one.

pub(crate) mod post;

use maud::{Markup, html};
use poem::http::StatusCode;
use postrider_core::{
    access::api_key::Scope,
    event::{self, Event, event_type::EventType},
    id::{EventId, SubscriptionId},
};

use crate::{
    serve::{
        list::{deliveries, external_id, metadata, parsed, span},
        problem::ApiError,
    },
    ui::{
        deliveries::filters::{moment, recent, time_field},
        fields::Fields,
        page::{Page, Section, Visit},
        parts,
        rows::{Rows, window},
    },
};

/// The filters, by their names in the API.
const FILTERS: [&str; 8] =
    ["event_type", "subscription_id", "tenant_id", "metadata", "external_id", WITHOUT, "since", "until"];
const WITHOUT: &str = "without_deliveries";

/// The page.
pub(crate) async fn page(visit: &Visit) -> Page {
    with(visit, &Fields::default(), &[]).await
}

/// The page, with what was typed into the form, and what is wrong with it.
async fn with(visit: &Visit, form: &Fields, wrong: &[post::Mistake]) -> Page {
    let list = match list(visit).await {
        Ok(rows) => show(visit, &rows),
        Err(error) => parts::trouble(visit, &error),
    };
    let body = html! {
        (parts::head(&parts::text("Events"), &html! { "What producers have posted, the newest first." }, &html! {
            a.button href=(visit.to("emitters")) { (visit.icon("audio-waveform")) "Emitters" }
        }))
        @if visit.access.may(Scope::Ingest) { (post::show(visit, form, wrong)) }
        div.choices { (recent(visit)) }
        (filters(visit))
        section.panel #list { (list) }
    };
    let status = if wrong.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Page { status, ..Page::new(Section::Events, "Events", body) }
}

async fn list(visit: &Visit) -> Result<Rows<Event>, ApiError> {
    let fields = &visit.query;
    let entries = fields.all("metadata").map(str::to_owned).collect();
    let filter = event::Filter {
        tenant_id: visit.lists()?,
        event_type: parsed::<EventType>("event_type", fields.get("event_type"))?,
        subscription: visit.find_named("subscription_id").await?,
        metadata: metadata(entries)?,
        external_id: external_id(fields.get("external_id").map(str::to_owned))?,
        deliveries: deliveries(parsed(WITHOUT, fields.get(WITHOUT))?),
        span: span(moment("since", fields.get("since"), visit.now)?, moment("until", fields.get("until"), visit.now)?)?,
    };
    let found = event::list(visit.pool(), &filter, window(visit, |id: EventId| id.0)?).await?;
    Ok(Rows::of(found, |event| event.id))
}

fn show(visit: &Visit, rows: &Rows<Event>) -> Markup {
    if rows.is_empty() {
        return if visit.is_filtered() {
            parts::empty(
                visit,
                "list-filter",
                "No event matches",
                &html! {
                    p { a.button href=(visit.to("events")) { (visit.icon("x")) "Clear the filters" } }
                },
            )
        } else {
            parts::empty(
                visit,
                "radio-tower",
                "No events yet",
                &html! {
                    p {
                    "Publish one with " code { "POST /events" } ", post one to a subscription's ingest, or publish one "
                    "by SQL."
                }
                },
            )
        };
    }
    html! {
        (rows.newer(visit, EventId::PREFIX, |event| event.id))
        table.cards {
            caption.unseen { "Events" }
            thead {
                tr {
                    th scope="col" { "Event" }
                    @if visit.access.tenant().is_none() { th scope="col" { "Tenant" } }
                    th scope="col" { "Posted to" }
                    th scope="col" { "Your id" }
                    th.number scope="col" { "Size" }
                    th scope="col" { "Accepted" }
                }
            }
            tbody { @for event in &rows.items { (row(visit, event)) } }
        }
        (rows.foot(visit, EventId::PREFIX, "events"))
    }
}

fn row(visit: &Visit, event: &Event) -> Markup {
    let id = EventId(event.id);
    html! {
        tr {
            th scope="row" {
                a.open href=(visit.to(format!("events/{id}"))) { (event.event_type) }
                span.sub.mono { (parts::short(id)) }
            }
            @if visit.access.tenant().is_none() { td data-label="Tenant" { (event.tenant_id) } }
            td data-label="Posted to" { (posted_to(event)) }
            td data-label="Your id" { (event.external_id.as_deref().unwrap_or("–")) }
            td.number data-label="Size" { (parts::bytes(event.payload_bytes.into())) }
            td data-label="Accepted" { (parts::time(visit, event.created_at)) }
        }
    }
}

/// To whom an event was posted.
pub(crate) fn posted_to(event: &Event) -> Markup {
    match event.subscription_id {
        Some(id) => html! { span.mono { (parts::short(SubscriptionId(id))) } },
        None if event.is_inline => parts::text("one URL"),
        None => parts::text("whoever wants it"),
    }
}

fn filters(visit: &Visit) -> Markup {
    let fields = &visit.query;
    let field = |name, label, kind, hint| parts::filter(fields, name, label, kind, hint);
    html! {
        (parts::in_use(visit, &FILTERS))
        details.filters {
            summary { (visit.icon("list-filter")) "Filters" }
            form method="get" action=(visit.to("events")) {
                (field("event_type", "Event type", "text", "order.created"))
                (field("subscription_id", "Posted to the subscription", "text", "sub_…"))
                @if visit.access.tenant().is_none() { (field("tenant_id", "Tenant", "text", "acme")) }
                (field("metadata", "Metadata", "text", "region:eu"))
                (field("external_id", "Your id", "text", "order-42-created"))
                (time_field(fields, "since", "Since (UTC)"))
                (time_field(fields, "until", "Until (UTC)"))
                fieldset.ticks {
                    legend { "Only" }
                    label.tick {
                        input type="checkbox" name=(WITHOUT) value="true" checked[fields.get(WITHOUT) == Some("true")];
                        span { "events without deliveries, which nobody wanted" }
                    }
                }
                div.do {
                    button.button.main type="submit" { "Apply" }
                    a.button href=(visit.to("events")) { "Clear" }
                }
            }
        }
    }
}
