//! The pieces that pages are made of: heads, panels, states, times, ids, buttons and lists of facts. Whatever looks the
//! same on two pages is here.

use std::fmt::Display;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use maud::{Markup, PreEscaped, html};
use postrider_core::{delivery::Status, subscription::State, subscription::circuit::CircuitState};

use crate::{
    serve::problem::ApiError,
    ui::{
        fields::{Fields, TENANT},
        page::Visit,
    },
};

/// Bytes of an id's text: its prefix and 32 digits.
const ID_BYTES: usize = 36;

/// What a state means for whoever looks at it; it decides the colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Ok,
    Warn,
    Bad,
    Info,
    Plain,
}

impl Tone {
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Info => "info",
            Self::Plain => "plain",
        }
    }
}

/// The head of a page: its only `h1`, a sentence below it, and what can be done.
pub(crate) fn head(title: &Markup, sentence: &Markup, actions: &Markup) -> Markup {
    html! {
        header.head {
            div { h1 { (title) } @if !sentence.0.is_empty() { p { (sentence) } } }
            @if !actions.0.is_empty() { div.actions { (actions) } }
        }
    }
}

/// A text as markup.
pub(crate) fn text(text: impl Display) -> Markup {
    html! { (text) }
}

/// Nothing.
pub(crate) fn nothing() -> Markup {
    PreEscaped(String::new())
}

/// A part of a page with a heading. `more` stands beside the heading, such as a link to a list.
pub(crate) fn panel(title: &str, more: &Markup, body: &Markup) -> Markup {
    html! {
        section.panel {
            header { h2 { (title) } (more) }
            (body)
        }
    }
}

/// What stands where something could not be loaded.
pub(crate) fn trouble(visit: &Visit, error: &ApiError) -> Markup {
    let problem = error.problem();
    html! {
        div.trouble role="alert" {
            (visit.icon("triangle-alert"))
            div {
                p { strong { "This could not be loaded: " } (problem.detail()) "." }
                @for one in problem.errors() { p { code { (one.field) } " " (one.message) } }
                @if problem.status() == 503 {
                    p { "Each statement of a page is stopped after two seconds. Narrow the filters or the time, or try "
                        "again in a moment." }
                }
            }
        }
    }
}

/// What stands where there is nothing to show: what it means, and what to do.
pub(crate) fn empty(visit: &Visit, symbol: &str, title: &str, body: &Markup) -> Markup {
    html! { div.empty { (visit.icon(symbol)) h2 { (title) } div { (body) } } }
}

/// A state as icon, word and colour.
pub(crate) fn badge(visit: &Visit, tone: Tone, symbol: &str, word: &str) -> Markup {
    html! { span class=(format!("badge {}", tone.class())) { (visit.icon(symbol)) (word) } }
}

/// How far a delivery has come.
pub(crate) fn status(visit: &Visit, status: Status) -> Markup {
    let (tone, symbol, word) = match status {
        Status::Pending => (Tone::Plain, "clock", "Pending"),
        Status::InFlight => (Tone::Info, "send", "In flight"),
        Status::Succeeded => (Tone::Ok, "circle-check", "Succeeded"),
        Status::DeadLetter => (Tone::Bad, "mail-x", "Dead letter"),
        Status::Canceled => (Tone::Plain, "ban", "Canceled"),
    };
    badge(visit, tone, symbol, word)
}

/// Whether a subscription's events are delivered.
pub(crate) fn state(visit: &Visit, state: State) -> Markup {
    match state {
        State::Active => badge(visit, Tone::Ok, "circle-check", "Active"),
        State::Paused => badge(visit, Tone::Warn, "circle-pause", "Paused"),
        State::Disabled => badge(visit, Tone::Plain, "power-off", "Disabled"),
    }
}

/// Whether a circuit lets deliveries through.
pub(crate) fn circuit(visit: &Visit, state: CircuitState) -> Markup {
    match state {
        CircuitState::Closed => badge(visit, Tone::Ok, "circle-check", "Circuit closed"),
        CircuitState::Open => badge(visit, Tone::Bad, "unplug", "Circuit open"),
        CircuitState::HalfOpen => badge(visit, Tone::Warn, "circle-dashed", "Circuit half open"),
    }
}

/// A moment: the time of day, with the date where that is not today's, and how far away it is. A script turns it into
/// the reader's time zone on request.
pub(crate) fn time(visit: &Visit, at: DateTime<Utc>) -> Markup {
    html! { (clock(visit, at)) " " span.ago { (distance(at - visit.now)) } }
}

/// A moment without its distance.
pub(crate) fn clock(visit: &Visit, at: DateTime<Utc>) -> Markup {
    let exact = at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let shape = if at.date_naive() == visit.now.date_naive() { "%H:%M:%S" } else { "%-d %b %Y, %H:%M:%S" };
    html! { time datetime=(exact) title=(exact) { (at.format(shape)) } }
}

/// A moment where there is one.
pub(crate) fn maybe_time(visit: &Visit, at: Option<DateTime<Utc>>) -> Markup {
    at.map_or_else(|| html! { span.none { "–" } }, |at| time(visit, at))
}

/// A distance in time, such as `3 min ago` or `in 2 h`.
pub(crate) fn distance(distance: TimeDelta) -> String {
    match distance.num_seconds() {
        ..0 => format!("{} ago", span(-distance)),
        0 => "now".to_owned(),
        1.. => format!("in {}", span(distance)),
    }
}

/// A length of time in its largest unit, such as `3 min`.
pub(crate) fn span(length: TimeDelta) -> String {
    let seconds = length.num_seconds();
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Milliseconds as people say them.
pub(crate) fn millis(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{:02} s", ms / 1_000, ms % 1_000 / 10),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

/// A count with spaces between the thousands.
pub(crate) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    format!("{}{}", if number < 0 { "-" } else { "" }, groups.join("\u{202f}"))
}

/// Bytes as people say them.
pub(crate) fn bytes(bytes: i64) -> String {
    match bytes {
        ..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{}.{} KiB", bytes / 1_024, bytes % 1_024 * 10 / 1_024),
        _ => format!("{}.{} MiB", bytes / 1_048_576, bytes % 1_048_576 * 10 / 1_048_576),
    }
}

/// An id in full, with a button that copies it.
pub(crate) fn id(visit: &Visit, id: impl Display) -> Markup {
    let id = id.to_string();
    html! { span.id { code { (id) } (copy(visit, &id, "Copy the id")) } }
}

/// The beginning and the end of an id, for lists.
pub(crate) fn short(id: impl Display) -> String {
    let id = id.to_string();
    match (id.get(..8), id.len().checked_sub(6).and_then(|end| id.get(end..))) {
        (Some(start), Some(end)) if id.len() > 16 => format!("{start}…{end}"),
        _ => id,
    }
}

/// A button that copies a text. Only a script can copy, so without scripts there is none.
pub(crate) fn copy(visit: &Visit, text: &str, label: &str) -> Markup {
    html! {
        button.copy.only-script type="button" data-copy=(text) aria-label=(label) title=(label) {
            (visit.icon("copy"))
        }
    }
}

/// A text that may be long, in a box of its own that scrolls, with a button that copies it.
pub(crate) fn code_box(visit: &Visit, label: &str, body: &str) -> Markup {
    html! {
        div.code-box {
            pre tabindex="0" role="region" aria-label=(label) { code { (body) } }
            (copy(visit, body, &format!("Copy: {label}")))
        }
    }
}

/// Pairs of a name and what it says.
pub(crate) fn facts(pairs: &[(&str, Markup)]) -> Markup {
    html! {
        dl.facts { @for (name, fact) in pairs { div { dt { (name) } dd { (fact) } } } }
    }
}

/// A form of one button, which does something.
pub(crate) struct Button<'a> {
    /// The path below `/ui/` to which the form is sent.
    pub(crate) action: String,
    pub(crate) icon: &'a str,
    pub(crate) word: &'a str,
    /// Whether it is the first thing to do here.
    pub(crate) weight: Weight,
}

/// How much a button catches the eye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// The one thing to do next.
    Main,
    /// One of several.
    Usual,
}

impl Button<'_> {
    /// The form. With it goes the page to which the browser returns.
    pub(crate) fn form(&self, visit: &Visit) -> Markup {
        let class = match self.weight {
            Weight::Main => "button main",
            Weight::Usual => "button",
        };
        html! {
            form method="post" action=(visit.to(&self.action)) {
                (back(visit))
                button class=(class) type="submit" { (visit.icon(self.icon)) (self.word) }
            }
        }
    }

    /// The button behind a second one: opening it says what will happen. It needs no script.
    pub(crate) fn behind(&self, visit: &Visit, warning: &str) -> Markup {
        html! {
            details.sure {
                summary.button { (visit.icon(self.icon)) (self.word) "…" }
                div.card {
                    p { (warning) }
                    form method="post" action=(visit.to(&self.action)) {
                        (back(visit))
                        button.button.danger type="submit" { (visit.icon(self.icon)) (self.word) }
                    }
                }
            }
        }
    }
}

/// A field of the filters above a list.
pub(crate) fn filter(fields: &Fields, name: &str, label: &str, kind: &str, hint: &str) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            input id=(name) name=(name) type=(kind) value=(fields.text(name)) placeholder=(hint) autocomplete="off"
                spellcheck="false";
        }
    }
}

/// The filters that are in use, each with a link that drops it.
pub(crate) fn in_use(visit: &Visit, names: &[&str]) -> Markup {
    let fields = visit.query.with("cursor", None);
    let used = names.iter().filter_map(|name| Some((*name, fields.get(name)?)));
    let used: Vec<_> = used.map(|(name, value)| (name, value, fields.with(name, None).query())).collect();
    // The chosen tenant would come back with a usual link.
    let place = |name: &str, without: &str| {
        let path = format!("{}{without}", visit.path);
        if name == TENANT { visit.to_all(path) } else { visit.to(path) }
    };
    let shown = |value: &str| if value.len() == ID_BYTES { short(value) } else { value.to_owned() };
    html! {
        @if !used.is_empty() {
            nav.chips aria-label="Filters in use" {
                @for (name, value, without) in &used {
                    a.used href=(place(name, without)) title="Drop this filter" {
                        (name.replace('_', " ")) ": " strong { (shown(value)) } (visit.icon("x"))
                    }
                }
            }
        }
    }
}

/// The hidden field that says to which page the browser returns.
pub(crate) fn back(visit: &Visit) -> Markup {
    html! { input type="hidden" name="back" value=(format!("{}{}", visit.path, visit.query.query())); }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_as_people_say_them() {
        assert_eq!([0, 999, 1_000, -12_345].map(count), ["0", "999", "1\u{202f}000", "-12\u{202f}345"]);
        assert_eq!([999, 1_000, 59_999, 61_500].map(millis), ["999 ms", "1.00 s", "59.99 s", "1 min 1 s"]);
        assert_eq!([1_023, 1_536, 1_048_576].map(bytes), ["1023 B", "1.5 KiB", "1.0 MiB"]);
        let spans = [59, 60, 3_599, 3_600, 172_799, 172_800].map(|seconds| span(TimeDelta::seconds(seconds)));
        assert_eq!(spans, ["59 s", "1 min", "59 min", "1 h", "47 h", "2 days"]);
        let distances = [-61, 0, 61].map(|seconds| distance(TimeDelta::seconds(seconds)));
        assert_eq!(distances, ["1 min ago", "now", "in 1 min"]);
        assert_eq!(short("dlv_0198c0de2f3a7b1c9d4e5f60718293a4"), "dlv_0198…8293a4");
        assert_eq!(short("admin_key"), "admin_key");
    }
}
