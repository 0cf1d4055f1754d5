//! Trying what a subscription wants: an event is typed in, or one that was accepted is named, and the page says which
//! condition holds for it and which fails. Nothing is sent.

use maud::{Markup, html};
use postrider_core::{
    event::{
        self, Event, Filter,
        audience::{Facts, explain},
        event_type::EventType,
        filter::Check,
        metadata::Metadata,
    },
    id::EventId,
    subscription::Subscription,
    validation::Problems,
};

use crate::{
    events::matching,
    serve::problem::ApiError,
    ui::{
        fields::Fields,
        page::{Next, Visit},
        parts::{self, Tone, nothing, panel},
        rows,
        subscription::{read, sample, settings::input::pairs},
    },
};

/// Events that the form offers, at most.
const EVENTS_OFFERED: i64 = 20;
/// Bytes of a payload that is typed in, at most.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Mistakes in the form: the field, and what is wrong.
type Mistakes = Vec<(String, String)>;

/// What was tried.
pub(super) struct Tried<'a> {
    form: &'a Fields,
    answer: Result<Vec<Check>, Mistakes>,
}

/// Judges what the form says.
pub(crate) async fn judge(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let subscription = read(visit, id).await?;
    let answer = match form.get("event_id").map(str::trim).filter(|id| !id.is_empty()) {
        Some(id) => stored(visit, id, &subscription).await,
        None => Ok(typed(form, &subscription)),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(ApiError::NotFound(_)) => Err(vec![("event_id".to_owned(), "is no event that can be found".to_owned())]),
        Err(error) => return Err(error),
    };
    let tried = Tried { form, answer };
    Ok(Next::Show(sample::with_tried(visit, &subscription, &tried).await))
}

async fn stored(
    visit: &Visit,
    id: &str,
    subscription: &Subscription,
) -> Result<Result<Vec<Check>, Mistakes>, ApiError> {
    let id: EventId = visit.find(id).await?;
    let event = event::get(visit.pool(), id).await?;
    let payload = event::payload(visit.pool(), id).await?;
    Ok(Ok(matching::checks(&event, &payload, subscription)?))
}

/// Judges an event as it is typed in.
fn typed(form: &Fields, subscription: &Subscription) -> Result<Vec<Check>, Mistakes> {
    let mut problems = Problems::default();
    let event_type = form.get("event_type").map_or_else(|| Ok(EventType::default()), str::parse);
    let event_type = problems.take("event_type", event_type);
    let entries = pairs(form, "metadata", &mut problems);
    let metadata = problems.take("metadata", Metadata::parse(entries));
    let payload = form.text("payload");
    problems.require(payload.len() <= PAYLOAD_BYTES_MAX, "payload", "must be at most 64 KiB");
    let settings = &subscription.settings;
    match (event_type, metadata) {
        (Some(event_type), Some(metadata)) if problems.0.is_empty() => {
            let facts = Facts::new(&event_type, &metadata, payload.as_bytes(), None);
            Ok(explain(&settings.event_types, &settings.filters, &facts))
        }
        _ => Err(problems.0.into_iter().map(|one| (one.field, one.message)).collect()),
    }
}

/// The panel with the form, and the answer to what was tried.
pub(super) async fn show(visit: &Visit, subscription: &Subscription, tried: Option<&Tried<'_>>) -> Markup {
    let filter = Filter { tenant_id: Some(subscription.tenant_id.clone()), ..Filter::default() };
    // A form without offers is better than none.
    let events = event::list(visit.pool(), &filter, rows::first(EVENTS_OFFERED)).await;
    let events = events.map(|found| found.items).unwrap_or_default();
    let body = html! {
        p { "Name an event that was accepted, or type one in, and see which conditions hold for it. Nothing is sent." }
        @if let Some(Tried { answer: Ok(checks), .. }) = tried { (verdict(visit, checks)) }
        (form(visit, subscription, tried, &events))
    };
    panel("Would it want this event?", &nothing(), &body)
}

/// What was found: each condition, and what the event has there.
fn verdict(visit: &Visit, checks: &[Check]) -> Markup {
    let failing = checks.iter().filter(|check| !check.holds).count();
    html! {
        div.note.(if failing == 0 { "ok" } else { "warn" }) role="status" {
            (visit.icon(if failing == 0 { "circle-check" } else { "circle-alert" }))
            p {
                @match failing {
                    0 => "It wants this event.",
                    1 => "It does not want this event: one condition fails.",
                    _ => { "It does not want this event: " (failing) " conditions fail." }
                }
            }
        }
        (list_of(visit, checks))
    }
}

/// The conditions one by one.
pub(crate) fn list_of(visit: &Visit, checks: &[Check]) -> Markup {
    html! {
        ul.checks {
            @for check in checks {
                li {
                    @if check.holds { (parts::badge(visit, Tone::Ok, "check", "Holds")) }
                    @else { (parts::badge(visit, Tone::Bad, "x", "Fails")) }
                    code { (check.rule) }
                    @if let Some(found) = &check.found { span.sub { "has " code { (found) } } }
                    @else if !check.holds { span.sub { "is not there" } }
                }
            }
        }
    }
}

fn form(visit: &Visit, subscription: &Subscription, tried: Option<&Tried<'_>>, events: &[Event]) -> Markup {
    let said = |name: &str| tried.map_or("", |tried| tried.form.text(name));
    let wrong = |name: &str| {
        let mistakes = tried.and_then(|tried| tried.answer.as_ref().err()).map(Vec::as_slice).unwrap_or_default();
        mistakes.iter().find(|(field, _)| field == name).map(|(_, why)| why.as_str())
    };
    let mistake = |name: &str| html! { @if let Some(why) = wrong(name) { p.wrong { (why) } } };
    let invalid = |name: &str| wrong(name).map(|_| "true");
    let own = format!("subscriptions/{}/judge", subscription.id);
    html! {
        form.stack method="post" action=(visit.to(own)) {
            div.field {
                label for="judged_event" { "An event that was accepted" }
                input.mono #judged_event name="event_id" type="text" value=(said("event_id")) placeholder="evt_…"
                    list="judged_events" autocomplete="off" spellcheck="false" aria-invalid=[invalid("event_id")];
                datalist #judged_events {
                    @for event in events {
                        option value=(EventId(event.id)) { (event.event_type) }
                    }
                }
                (mistake("event_id"))
                p.hint { "Where this is empty, the fields below count." }
            }
            div.field {
                label for="judged_type" { "Event type" }
                input.mono #judged_type name="event_type" type="text" value=(said("event_type")) autocomplete="off"
                    spellcheck="false" placeholder="order.created" aria-invalid=[invalid("event_type")];
                (mistake("event_type"))
            }
            div.two {
                div.field {
                    label for="judged_payload" { "Payload, as JSON" }
                    textarea.mono #judged_payload name="payload" rows="6" spellcheck="false"
                        placeholder="{\"order\": {\"total\": 120}}" aria-invalid=[invalid("payload")] {
                        (said("payload"))
                    }
                    (mistake("payload"))
                }
                div.field {
                    label for="judged_metadata" { "Metadata, a line each" }
                    textarea.mono #judged_metadata name="metadata" rows="6" spellcheck="false" placeholder="region: eu"
                        aria-invalid=[invalid("metadata")] { (said("metadata")) }
                    (mistake("metadata"))
                }
            }
            button.button type="submit" { (visit.icon("list-filter")) "See which conditions hold" }
        }
    }
}
