//! The attempts of a delivery as a line of time, the latest first, each with the receiver's answer.

mod phases;

use maud::{Markup, html};
use postrider_core::{
    delivery::{Delivery, Status},
    queue::attempt::Attempt,
};

use crate::ui::{
    page::Visit,
    parts::{self, Tone},
    pretty::readable,
};

/// The line of time.
pub(crate) fn show(visit: &Visit, delivery: &Delivery, attempts: &[Attempt]) -> Markup {
    if attempts.is_empty() {
        let why = match delivery.status {
            Status::Pending => "It waits for its first attempt.",
            Status::InFlight => "The first attempt is under way.",
            Status::Succeeded | Status::DeadLetter | Status::Canceled => "No attempt was made, or it was removed.",
        };
        return parts::empty(visit, "clock", "No attempt yet", &html! { p { (why) } });
    }
    let last = attempts.last().map(|attempt| attempt.number);
    html! {
        ol.timeline reversed {
            @if let Some(at) = delivery.next_attempt_at {
                li.ahead {
                    span.dot { (visit.icon("clock")) }
                    div {
                        p { strong { "Next attempt" } " " (parts::time(visit, at)) }
                    }
                }
            }
            @for attempt in attempts.iter().rev() {
                (one(visit, attempt, Some(attempt.number) == last))
            }
        }
    }
}

fn one(visit: &Visit, attempt: &Attempt, is_last: bool) -> Markup {
    let (tone, symbol) =
        if attempt.error_kind.is_none() { (Tone::Ok, "circle-check") } else { (Tone::Bad, "circle-x") };
    let what = match (attempt.status_code, attempt.error_kind.as_deref()) {
        (Some(code), _) => format!("answered {code}"),
        (None, Some(kind)) => words(kind).to_owned(),
        (None, None) => "succeeded".to_owned(),
    };
    html! {
        li class=(tone.class()) id=(format!("attempt-{}", attempt.number)) {
            span.dot { (visit.icon(symbol)) }
            div {
                p {
                    strong { "Attempt " (attempt.number) } " " (what)
                    @if let Some(ms) = attempt.duration_ms { span.sub { " after " (parts::millis(ms.into())) } }
                    " · " span.when { (parts::time(visit, attempt.started_at)) }
                }
                @if let Some(error) = &attempt.error { p.why { (error) } }
                (phases::show(attempt))
                @if attempt.response_body.is_some() || attempt.response_headers.is_some() {
                    (answer(visit, attempt, is_last))
                }
            }
        }
    }
}

fn answer(visit: &Visit, attempt: &Attempt, is_open: bool) -> Markup {
    let headers = attempt.response_headers.as_ref().map(|headers| headers.0.as_slice()).unwrap_or_default();
    let body = attempt.response_body.as_deref().unwrap_or_default();
    html! {
        details open[is_open] {
            summary { "The answer" }
            @if !headers.is_empty() {
                dl.headers { @for (name, value) in headers { div { dt { (name) } dd { (value) } } } }
            }
            @if body.is_empty() { p.hint { "Its body was empty." } } @else {
                (parts::code_box(visit, &format!("Body of the answer to attempt {}", attempt.number), &readable(body)))
                @if attempt.response_truncated { p.hint { "The body was longer; this is its beginning." } }
            }
        }
    }
}

/// The kind of an error in words.
fn words(kind: &str) -> &str {
    match kind {
        "timeout" => "timed out",
        "dns" => "did not find the host",
        "connect" => "could not connect",
        "tls" => "failed at TLS",
        "blocked_target" => "was not made, because the target is blocked",
        "protocol" => "broke off",
        "aborted" => "was the last by the receiver's wish",
        "shutdown" => "was cut off by the end of the worker",
        "worker_busy" => "found the worker busy",
        "payload_gone" => "found no payload any more",
        "lease_lost" => "was lost with its worker",
        other => other,
    }
}
