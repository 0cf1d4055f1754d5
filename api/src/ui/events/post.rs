//! The form that posts an event: to all who want it, or to one subscription. It takes what the API takes.

use std::collections::BTreeMap;

use bytes::Bytes;
use maud::{Markup, html};
use postrider_core::{
    accept::{
        AcceptedEvent,
        event_input::EventInput,
        ingest::{IngestKeys, Posted},
    },
    event::{CONTENT_TYPE_JSON, new_event::Verdict},
    id::SubscriptionId,
};
use serde::de::IgnoredAny;

use crate::{
    serve::problem::ApiError,
    ui::{
        events,
        fields::{Fields, TENANT},
        page::{Next, Note, Visit},
    },
};

/// A field and what is wrong with it.
pub(super) type Mistake = (String, String);

/// The form, for keys that may post events. What was typed before is in `form`.
pub(super) fn show(visit: &Visit, form: &Fields, wrong: &[Mistake]) -> Markup {
    let mistake = |field: &str| wrong.iter().find(|(name, _)| name == field).map(|(_, why)| why.as_str());
    let line = |name: &str, label: &str, hint: &str| {
        let id = format!("post-{name}");
        html! {
            div.field {
                label for=(id) { (label) }
                input id=(id) name=(name) type="text" value=(form.text(name)) placeholder=(hint) autocomplete="off"
                    spellcheck="false" aria-invalid=[mistake(name).map(|_| "true")];
                @if let Some(why) = mistake(name) { p.wrong { (why) } }
            }
        }
    };
    let area = |name: &str, label: &str, rows: &str, hint: &str| {
        let id = format!("post-{name}");
        html! {
            div.field {
                label for=(id) { (label) }
                textarea.mono id=(id) name=(name) rows=(rows) spellcheck="false" placeholder=(hint)
                    aria-invalid=[mistake(name).map(|_| "true")] { (form.text(name)) }
                @if let Some(why) = mistake(name) { p.wrong { (why) } }
            }
        }
    };
    let tenant = visit.tenant().unwrap_or("default");
    html! {
        details.filters.post #post open[!wrong.is_empty()] {
            summary { (visit.icon("send")) "Post an event" }
            form #post-event method="post" action=(visit.to("events")) {
                div.field.only-script hidden {
                    label for="post-earlier" { "One that was posted from this browser before" }
                    select #post-earlier {}
                }
                (line("event_type", "Event type", "order.created"))
                (line("subscription_id", "Only to the subscription", "sub_…, or all who want it"))
                @if visit.access.tenant().is_none() { (line(TENANT, "Tenant", tenant)) }
                (line("id", "Your id", "order-42-created"))
                (area("payload", "Payload, as JSON", "8", "{\"order\": 42}"))
                p.hint #post-payload-said role="status" {}
                (area("metadata", "Metadata, an entry a line", "2", "region: eu"))
                div.do { button.button.main type="submit" { (visit.icon("send")) "Post it" } }
            }
        }
    }
}

/// Posts the event, and shows it.
pub(crate) async fn post(visit: &Visit, form: &Fields) -> Result<Next, ApiError> {
    match accepted(visit, form).await {
        Ok(accepted) => Ok(Next::Go(format!("events/{}", accepted.event_id), told(&accepted))),
        Err(error @ ApiError::Unprocessable(_)) => {
            let wrong = error.problem().errors().iter().map(|one| (one.field.clone(), one.message.clone()));
            Ok(Next::Show(events::with(visit, form, &wrong.collect::<Vec<_>>()).await))
        }
        Err(error) => Err(error),
    }
}

async fn accepted(visit: &Visit, form: &Fields) -> Result<AcceptedEvent, ApiError> {
    let app = &visit.app;
    // A browser sends each line break of a text as two characters.
    let payload = form.text("payload").replace("\r\n", "\n");
    let payload = payload.trim();
    serde_json::from_str::<IgnoredAny>(payload)
        .map_err(|why| ApiError::invalid("payload", format!("must be JSON: {why}")))?;
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    let event_type = form.get("event_type").map(str::to_owned);
    if event_type.is_none() {
        return Err(ApiError::invalid("event_type", "must not be empty"));
    }
    let metadata = entries(form.text("metadata"))?;
    let Some(id) = form.get("subscription_id") else {
        app.limits.ask_of_page(&visit.access, None)?;
        let event = EventInput {
            event_type,
            metadata,
            id: form.get("id").map(str::to_owned),
            ..EventInput::new(visit.access.creates_for(form.get(TENANT))?, CONTENT_TYPE_JSON.to_owned(), payload)
        };
        return Ok(app.acceptor.publish(event, None, visit.now).await?);
    };
    let wrong = |_| ApiError::invalid("subscription_id", "must be the id of a subscription, such as sub_…");
    let id: SubscriptionId = id.parse().map_err(wrong)?;
    let id: SubscriptionId = visit.find(&id.to_string()).await?;
    for (field, is_given) in [("id", form.has("id")), ("metadata", !metadata.is_empty())] {
        if is_given {
            return Err(ApiError::invalid(field, "is for events that go to all who want them"));
        }
    }
    let subscription = app.cache.get(id).await?.ok_or_else(|| ApiError::not_found("subscription"))?;
    app.limits.ask_of_page(&visit.access, Some(&subscription))?;
    let posted = Posted {
        event_type,
        provider_event_type: None,
        content_type: Some(CONTENT_TYPE_JSON.to_owned()),
        content_encoding: None,
        ordering_key: None,
        payload,
        trace: None,
    };
    Ok(app.acceptor.ingest(&subscription, posted, IngestKeys { chosen: None, signed: None }, visit.now).await?)
}

/// Entries of metadata, one a line.
fn entries(text: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let wrong = || ApiError::invalid("metadata", "must be lines of `key: value`, each key once");
    let mut entries = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once(':').ok_or_else(wrong)?;
        if entries.insert(key.trim().to_owned(), value.trim().to_owned()).is_some() {
            return Err(wrong());
        }
    }
    Ok(entries)
}

/// What became of the event.
fn told(accepted: &AcceptedEvent) -> Note {
    let sentence = match (accepted.verdict, accepted.delivery_ids.len()) {
        (Verdict::Pending, 0) => "The event is stored. Nobody wants it, so it is not delivered.".to_owned(),
        (Verdict::Pending, 1) => "The event is stored, and its delivery is on its way.".to_owned(),
        (Verdict::Pending, count) => format!("The event is stored, and its {count} deliveries are on their way."),
        (Verdict::Filtered, _) => "The event is stored. The subscription does not want it.".to_owned(),
        (Verdict::Disabled, _) => "The event is stored, and not delivered: the subscription is disabled.".to_owned(),
        (Verdict::Unreadable, _) => {
            "The event is stored, and not delivered: a filter cannot read its payload.".to_owned()
        }
    };
    Note::Done(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_a_line_for_each_entry() {
        let read = entries("region: eu\r\n\r\n url:https://a:1 \n").expect("lines of entries");
        let read: Vec<_> = read.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(read, [("region", "eu"), ("url", "https://a:1")]);
        assert!(entries("region").is_err() && entries("a: 1\na: 2").is_err());
    }
}
