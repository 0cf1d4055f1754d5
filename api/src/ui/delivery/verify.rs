//! Whether a signature that a receiver has got fits: a form on a delivery's page, and the answer in a sentence. Nothing
//! is shown that whoever sees the page does not know.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use postrider_core::{
    delivery,
    delivery::request_headers::{Sent, Source, headers},
    event,
    id::{DeliveryId, EventId},
    queue::attempt,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        delivery::request::{Sender, sent},
        fields::Fields,
        page::{Next, Note, Visit},
    },
};

/// Characters of a signature, at least: base64 of 32 bytes is the shortest.
const SIGNATURE_CHARACTERS_MIN: usize = 43;

/// The form. `at` is the time of the latest attempt.
pub(super) fn form(visit: &Visit, id: DeliveryId, at: DateTime<Utc>) -> Markup {
    html! {
        details {
            summary { (visit.icon("shield-check")) "Verify a signature" }
            form.stack method="post" action=(visit.to(format!("deliveries/{id}/verify"))) {
                div.two {
                    div.field {
                        label for="signature" { "The signature, as the receiver has got it" }
                        input.mono #signature name="signature" type="text" required placeholder="v1,…"
                            autocomplete="off" spellcheck="false";
                    }
                    div.field {
                        label for="timestamp" { "The timestamp that came with it, in seconds since 1970" }
                        input.mono #timestamp name="timestamp" type="number" required value=(at.timestamp());
                    }
                }
                div.field {
                    label for="body" { "The body, as the receiver has read it; empty means the stored payload" }
                    textarea.mono #body name="body" rows="4" spellcheck="false" {}
                }
                button.button type="submit" { (visit.icon("check")) "Verify" }
            }
        }
    }
}

/// Compares the signature with those that are made anew, and says what fits, or what seems to be wrong.
pub(crate) async fn verify(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: DeliveryId = visit.find(id).await?;
    let delivery = delivery::get(visit.pool(), id).await?;
    let event = event::get(visit.pool(), EventId(delivery.event_id)).await?;
    let payload = event::payload(visit.pool(), EventId(delivery.event_id)).await?;
    let attempts = attempt::list(visit.pool(), id).await?;
    let sender = Sender::of(visit, &delivery).await?;
    let destination = sender.destination()?;
    let seconds = form.get("timestamp").and_then(|text| text.parse().ok());
    let at = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let at = at.ok_or_else(|| ApiError::invalid("timestamp", "must be seconds since 1970"))?;
    // A browser sends each line break of a text as two characters.
    let typed = form.text("body").replace("\r\n", "\n");
    let body = if typed.is_empty() { &payload.bytes[..] } else { typed.as_bytes() };
    let given: Vec<_> = signatures(form.text("signature")).collect();
    let (event_id, delivery_id) = (EventId(event.id).to_string(), id.to_string());
    let fits = |at: DateTime<Utc>, body: &[u8]| {
        let sent = Sent { payload: body, ..sent(&event, (&event_id, &delivery_id), &payload, 1) };
        let made = headers(destination, sent, at);
        let mut made = made.into_iter().filter(|(name, _, source)| *source == Source::Signature && is_value(name));
        made.any(|(_, value, _)| signatures(&value).any(|one| given.contains(&one)))
    };
    let of_attempt = attempts.iter().find(|one| fits(one.started_at, &payload.bytes));
    let note = if fits(at, body) {
        Note::Done("The signature fits the secret, the timestamp and the body.".to_owned())
    } else if fits(at, &payload.bytes) {
        let place = body.iter().zip(&payload.bytes).take_while(|(one, other)| one == other).count();
        Note::Refused(format!(
            "The signature fits the stored payload, but not this body, which differs from it at byte {place}. A \
             receiver has to verify the bytes as they arrived, before it parses them."
        ))
    } else if let Some(attempt) = of_attempt {
        Note::Refused(format!(
            "The signature fits attempt {}, whose timestamp is {}; the given timestamp or body is another one.",
            attempt.number,
            attempt.started_at.timestamp()
        ))
    } else {
        Note::Refused(
            "The signature does not fit: it was made with another secret, with another timestamp, or for another \
             delivery."
                .to_owned(),
        )
    };
    Ok(Next::Go(format!("deliveries/{id}"), note))
}

/// Whether a header has signatures, and not only what is signed.
fn is_value(name: &str) -> bool {
    name.contains("signature")
}

/// The signatures of a header, without the names of their schemes, which are shorter than any signature.
fn signatures(header: &str) -> impl Iterator<Item = &str> {
    let parts = header.split([' ', ',']).map(|part| part.trim_start_matches("sha256="));
    parts.filter(|part| part.len() >= SIGNATURE_CHARACTERS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_headers() {
        let (one, other) = ("A".repeat(43) + "=", "b".repeat(64));
        assert_eq!(signatures(&format!("v1,{one} v1a,{other}")).collect::<Vec<_>>(), [&*one, &*other]);
        assert_eq!(signatures(&format!("sha256={other}")).collect::<Vec<_>>(), [&*other]);
        assert_eq!(signatures(&format!("{other}, {other}")).count(), 2);
        assert_eq!(signatures("v1, 1700000000 nothing").count(), 0);
    }
}
