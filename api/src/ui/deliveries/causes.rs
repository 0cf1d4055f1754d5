//! Causes of failures in words, and the field that chooses one.

use maud::{Markup, html};
use postrider_core::{delivery::cause::Cause, tally::class::Class};

use crate::ui::fields::Fields;

/// The field of the address.
pub(super) const CAUSE: &str = "cause";

/// A cause in words.
pub(super) fn words(cause: Cause) -> &'static str {
    match cause.class() {
        Class::Http3xx => "Answered 3xx",
        Class::Http4xx => "Answered another 4xx",
        Class::Http404 => "Answered 404",
        Class::Http410 => "Answered 410",
        Class::Http429 => "Answered 429",
        Class::Http5xx => "Answered 5xx",
        Class::HttpOther => "Answered something else",
        Class::Timeout => "No answer in time",
        Class::Dns => "Host not found",
        Class::Connect => "No connection",
        Class::Tls => "TLS failed",
        Class::BlockedTarget => "Target is blocked",
        Class::Protocol => "Connection broke off",
        Class::Aborted => "Given up by the receiver",
        Class::PayloadGone => "Payload was removed",
        Class::Interrupted => "Cut off by our end",
        Class::LeaseLost => "Worker was lost",
        Class::Succeeded | Class::DeadLetter | Class::Canceled => "Ended",
    }
}

/// The field that chooses a cause.
pub(super) fn field(fields: &Fields) -> Markup {
    let chosen = fields.get(CAUSE);
    html! {
        div {
            label for=(CAUSE) { "The last attempt failed" }
            select id=(CAUSE) name=(CAUSE) {
                option value="" { "or not" }
                @for cause in Cause::all() {
                    option value=(cause) selected[chosen == Some(cause.as_str())] { (words(cause)) }
                }
            }
        }
    }
}
