//! The request of a delivery's latest attempt. Requests are not stored, so it is made anew from what is: the event, the
//! subscription as it is now, and the time of the attempt.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use postrider_core::{
    delivery::{
        Delivery,
        destination::Destination,
        inline::{self, InlineDelivery},
        request_headers::{self, Header, Sent, Source},
    },
    event::{self, Event, Payload, content_encoding::ContentEncoding},
    id::{EventId, SubscriptionId},
    queue::attempt::Attempt,
    subscription::{Subscription, settings::REDACTED},
};

use crate::{
    serve::problem::ApiError,
    ui::{
        delivery::verify,
        page::Visit,
        parts::{self, nothing, panel},
        pretty::{beginning, readable},
    },
};

/// A payload of more bytes is not put into a command that people copy.
const COMMAND_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a payload that the page shows.
const SHOWN_BYTES_MAX: usize = 64 * 1024;

/// The panel with the request; `last` is the latest attempt, whose time and number it has.
pub(super) async fn show(visit: &Visit, delivery: &Delivery, last: Option<&Attempt>) -> Markup {
    let title = if last.is_some() { "The request of the latest attempt" } else { "The request" };
    let made = async {
        let id = EventId(delivery.event_id);
        let event = event::get(visit.pool(), id).await?;
        let payload = event::payload(visit.pool(), id).await?;
        made(visit, delivery, last, &event, &payload).await
    };
    let body = match made.await {
        Ok(body) => body,
        Err(ApiError::NotFound(_)) => parts::empty(
            visit,
            "inbox",
            "It cannot be shown any more",
            &html! {
                p { "Its event or its subscription does not exist any more." }
            },
        ),
        Err(error) => parts::trouble(visit, &error),
    };
    panel(title, &nothing(), &body)
}

/// Who decides where and how a delivery is sent: its subscription as it is now, or the request that made it.
pub(super) struct Sender {
    subscription: Option<Subscription>,
    inline: Option<InlineDelivery>,
}

impl Sender {
    pub(super) async fn of(visit: &Visit, delivery: &Delivery) -> Result<Self, ApiError> {
        if let Some(id) = delivery.subscription_id.map(SubscriptionId) {
            return Ok(Self { subscription: Some(visit.subscriptions().get(id).await?), inline: None });
        }
        Ok(Self { subscription: None, inline: inline::get(visit.pool(), &visit.app.keyring, delivery.id).await? })
    }

    pub(super) fn destination(&self) -> Result<Destination<'_>, ApiError> {
        match (&self.subscription, &self.inline) {
            (Some(subscription), _) => Ok(Destination::of(subscription)),
            (None, Some(inline)) => Ok(inline.destination()),
            (None, None) => Err(ApiError::not_found("subscription")),
        }
    }
}

/// What an attempt sends, without the place in a trace.
pub(super) fn sent<'a>(
    event: &'a Event,
    (event_id, delivery_id): (&'a str, &'a str),
    payload: &'a Payload,
    attempt_number: i32,
) -> Sent<'a> {
    Sent {
        event_id,
        delivery_id,
        event_type: &event.event_type,
        attempt_number,
        content_type: &payload.content_type,
        content_encoding: payload.content_encoding.as_ref().map(ContentEncoding::as_str),
        payload: &payload.bytes,
        trace: None,
    }
}

async fn made(
    visit: &Visit,
    delivery: &Delivery,
    last: Option<&Attempt>,
    event: &Event,
    payload: &Payload,
) -> Result<Markup, ApiError> {
    let sender = Sender::of(visit, delivery).await?;
    let destination = sender.destination()?;
    let attempt_number = last.map_or(1, |last| last.number);
    let (event_id, delivery_id) = (EventId(event.id).to_string(), delivery.id.to_string());
    let trace = event.trace();
    let sent = sent(event, (&event_id, &delivery_id), payload, attempt_number);
    let sent = Sent { trace: trace.as_ref(), ..sent };
    let at = last.map_or(visit.now, |last| last.started_at);
    let headers = shown(visit, destination, request_headers::headers(destination, sent, at));
    let url = destination.target_url.as_str();
    let fresh = shown(visit, destination, request_headers::headers(destination, sent, visit.now));
    let command = command(visit, url, &fresh, payload);
    let shown = beginning(&payload.bytes, SHOWN_BYTES_MAX);
    Ok(html! {
        div.request {
            p.line { span.method { "POST" } " " span.mono { (url) } }
            (header_list(visit, &headers, at))
            (parts::code_box(visit, "Body of the request", &readable(shown)))
            p.hint {
                (parts::bytes(i64::try_from(payload.bytes.len()).unwrap_or(i64::MAX))) " of "
                (payload.content_type) ". "
                @if shown.len() < payload.bytes.len() { "This is the beginning. " }
                a href=(visit.to(format!("events/{event_id}/payload"))) { "Download the payload" } "."
            }
            @if visit.may_manage() && destination.secrets.is_some() { (verify::form(visit, delivery.id, at)) }
            details {
                summary { (visit.icon("code-xml")) "As a curl command" }
                (parts::code_box(visit, "A curl command that sends the request", &command))
                @if visit.may_manage() {
                    p.hint { "It is signed now. Receivers that look at the time accept it for about five minutes." }
                } @else {
                    p.hint { "It is not signed, because your key may only read." }
                }
            }
        }
    })
}

fn header_list(visit: &Visit, headers: &[Header], at: DateTime<Utc>) -> Markup {
    html! {
        dl.headers {
            @for (name, value, source) in headers {
                div {
                    dt { (name) }
                    dd {
                        (value)
                        @if *source == Source::Signature && visit.may_manage() {
                            " " span.badge.plain title="It is not stored, but made again with the secrets of today." {
                                "recomputed"
                            }
                        }
                    }
                }
            }
        }
        p.hint {
            "Made anew for " (parts::clock(visit, at)) ", with the subscription's settings and secrets as they are now."
        }
    }
}

/// The headers with their values as this visitor may see them. Who may only read could otherwise send what receivers
/// believe.
fn shown(visit: &Visit, destination: Destination<'_>, headers: Vec<Header>) -> Vec<Header> {
    let redacted = destination.headers.redacted();
    let shown = headers.into_iter().map(|(name, value, source)| {
        let value = match source {
            Source::Ours => value,
            Source::Signature if visit.may_manage() => value,
            Source::Signature => REDACTED.to_owned(),
            Source::Owner => redacted.get(&name).cloned().unwrap_or_default(),
        };
        (name, value, source)
    });
    shown.collect()
}

/// A command for a shell that sends the same request.
fn command(visit: &Visit, url: &str, headers: &[Header], payload: &Payload) -> String {
    let mut command = format!("curl -i {}", quoted(url));
    for (name, value, source) in headers {
        // curl sets these by itself, and a receiver needs no length twice.
        if matches!(name.as_str(), "accept" | "content-length") {
            continue;
        }
        if *source == Source::Signature && !visit.may_manage() {
            continue;
        }
        command.push_str(" \\\n  -H ");
        command.push_str(&quoted(&format!("{name}: {value}")));
    }
    let text = std::str::from_utf8(&payload.bytes).ok().filter(|text| text.len() <= COMMAND_BYTES_MAX);
    // A file with the payload is meant where the text cannot stand in a command.
    let body = text.filter(|text| !text.contains('\0') && !text.starts_with('@'));
    command.push_str(" \\\n  --data-binary ");
    command.push_str(&body.map_or_else(|| "@payload".to_owned(), quoted));
    command
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_word_of_a_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
    }
}
