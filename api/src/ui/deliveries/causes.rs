//! Causes of failures in words, and the field that chooses one.

use maud::{Markup, html};
use postrider_core::{delivery::cause::Cause, tally::class::Class};

use crate::ui::{fields::Fields, statistics::why};

/// The field of the address.
pub(super) const CAUSE: &str = "cause";

/// A cause in words: that of the statistics, with the kind of answer in place of its status.
pub(super) fn words(cause: Cause) -> String {
    let answered = match cause.class() {
        Class::Http3xx => "3xx",
        Class::Http4xx => "another 4xx",
        Class::Http404 => "404",
        Class::Http410 => "410",
        Class::Http429 => "429",
        Class::Http5xx => "5xx",
        Class::HttpOther => "something else",
        other => return why(other, None),
    };
    format!("Answered {answered}")
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
