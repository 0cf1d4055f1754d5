//! One sentence about whether deliveries flow, from what can be known without counting everything.

use maud::{Markup, html};
use postrider_core::{
    delivery::{Delivery, dead_letter::DeadLetter},
    queue::glance::Glance,
    subscription::Subscription,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        overview::FAILING_MAX,
        page::Visit,
        parts::{self, Tone},
    },
};

/// What the page has read.
pub(crate) struct Known<'a> {
    pub(crate) failing: &'a Result<Vec<Subscription>, ApiError>,
    pub(crate) dead: &'a Result<Vec<DeadLetter>, ApiError>,
    pub(crate) queue: Option<&'a Result<Glance, ApiError>>,
    pub(crate) recent: &'a Result<Vec<Delivery>, ApiError>,
    /// What most of the failing receivers have in common that is more likely a fault of this network.
    pub(crate) shared_cause: Option<&'a str>,
}

/// What follows from it: how bad it is, the sentence, and what more there is to say.
struct Verdict {
    tone: Tone,
    icon: &'static str,
    sentence: String,
    details: Vec<Markup>,
}

/// The sentence, with what supports it.
pub(crate) fn show(visit: &Visit, known: &Known<'_>) -> Markup {
    let verdict = judge(visit, known);
    html! {
        section class=(format!("verdict {}", verdict.tone.class())) aria-label="The verdict" {
            (visit.icon(verdict.icon))
            div {
                p.sentence { (verdict.sentence) }
                @for detail in &verdict.details { p { (detail) } }
            }
        }
    }
}

fn judge(visit: &Visit, known: &Known<'_>) -> Verdict {
    let mut details = Vec::new();
    let dead = known.dead.as_ref().map_or(0, Vec::len);
    if dead > 0 {
        let few = many(dead, "dead letter waits for a decision", "dead letters wait for a decision");
        details.push(html! { a href=(visit.to("dead-letters")) { (few) } "." });
    }
    if [known.failing.is_err(), known.dead.is_err(), known.recent.is_err()].contains(&true) {
        let sentence = "The database is slow or away, so nobody can say whether deliveries flow.".to_owned();
        return Verdict { tone: Tone::Bad, icon: "triangle-alert", sentence, details };
    }
    let queue = known.queue.and_then(|queue| queue.as_ref().ok());
    if let Some(since) = queue.and_then(|queue| queue.neglected_since) {
        details.insert(
            0,
            html! {
                "Either no worker runs, or the workers have less room than there is to do. "
                a href=(visit.to("lanes")) { "See which lanes wait" } "."
            },
        );
        let time = parts::span(visit.now - since);
        let sentence = format!("Deliveries wait that nobody attempts, the first of them for {time}.");
        return Verdict { tone: Tone::Bad, icon: "triangle-alert", sentence, details };
    }
    let failing = known.failing.as_ref().map_or(0, Vec::len);
    if let Some(shared) = known.shared_cause {
        let sentence = format!("Look at this network first: {shared}.");
        return Verdict { tone: Tone::Bad, icon: "triangle-alert", sentence, details };
    }
    if failing > 0 {
        let sentence = format!("Deliveries flow, but {}.", many(failing, "receiver fails", "receivers fail"));
        return Verdict { tone: Tone::Warn, icon: "circle-alert", sentence, details };
    }
    if known.recent.as_ref().is_ok_and(Vec::is_empty) {
        let sentence = "Ready. Nothing has been delivered yet.".to_owned();
        return Verdict { tone: Tone::Info, icon: "info", sentence, details };
    }
    let tone = if dead > 0 { Tone::Warn } else { Tone::Ok };
    let icon = if dead > 0 { "circle-alert" } else { "circle-check" };
    Verdict { tone, icon, sentence: "Deliveries flow, and no receiver fails.".to_owned(), details }
}

/// A count in words. What is counted up to a bound says so.
fn many(count: usize, one: &str, several: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count if i64::try_from(count).is_ok_and(|count| count >= FAILING_MAX) => format!("{count} or more {several}"),
        count => format!("{count} {several}"),
    }
}
