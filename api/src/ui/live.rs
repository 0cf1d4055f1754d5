//! The live page: what happens now. A script fills it from the feed of `/live`; without scripts the page says where to
//! look instead.

use maud::{Markup, html};
use poem::{IntoResponse, Response};

use crate::{
    live::{Naming, Wanted, stream},
    serve::problem::ApiError,
    ui::{
        page::{Page, Section, Visit},
        parts::{head, nothing, panel, text},
    },
};

/// What the page can be narrowed to: the value of the field `show`, its word, and the topics that it stands for.
const CHOICES: [(&str, &str, &str); 4] = [
    ("", "Everything", "delivery.*,circuit.*,metrics.*"),
    ("failures", "Failures", "delivery.failed,delivery.dead_letter,circuit.*,metrics.*"),
    ("ends", "Ends", "delivery.succeeded,delivery.dead_letter,metrics.*"),
    ("changes", "Changes", "circuit.*,audit.*,metrics.*"),
];

/// The page.
///
/// # Errors
/// When the visitor does not reach the subscription that it is narrowed to.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let narrowed: Option<postrider_core::id::SubscriptionId> = visit.find_named("subscription_id").await?;
    let chosen = visit.query.get("show").unwrap_or_default();
    let topics = CHOICES.iter().find(|(value, ..)| *value == chosen).map_or(CHOICES[0].2, |(.., topics)| topics);
    let only = narrowed.map(|id| format!("&subscription_id={id}")).unwrap_or_default();
    let source = visit.to(format!("live/stream?topics={topics}{only}"));
    let sentence = match narrowed {
        Some(id) => html! {
            "What happens at " a href=(visit.to(format!("subscriptions/{id}"))) { code { (id) } } ", as it happens. "
            a href=(visit.to("live")) { "Show all" }
        },
        None => text("Deliveries, circuits and changes as they happen: a sample of them, failures first."),
    };
    let body = html! {
        (head(&text("Live"), &sentence, &nothing()))
        nav.chips aria-label="What is shown" {
            @for (value, word, _) in CHOICES {
                @if value != "changes" || visit.may_administer() {
                    a href=(visit.to(format!("live?show={value}{only}")))
                        aria-current=[(chosen == value).then_some("true")] { (word) }
                }
            }
        }
        noscript {
            div.note.warn { p {
                "This page needs scripts. Without them, " a href=(visit.to("deliveries")) { "the list of deliveries" }
                " tells the same, whenever it is opened."
            } }
        }
        div #feed data-source=(source) data-root=(visit.root) {
            div.tiles {
                @for (name, word) in [("succeeded", "Succeeded"), ("failed", "Failed"), ("dead_letter", "Dead letters"),
                    ("queued", "Queued"), ("p95", "p95 of attempts")] {
                    div.tile { div.word { (word) } div.figure data-figure=(name) { "–" } span.sub { "in a second" } }
                }
            }
            (panel("The last minute", &nothing(), &minute()))
            (panel("What happens", &html! { span.sub data-state="" { "waiting for scripts" } }, &rows()))
        }
    };
    Ok(Page::new(Section::Live, "Live", body))
}

/// The chart of the last 60 seconds, which the script draws.
fn minute() -> Markup {
    html! {
        div.chart {
            svg viewBox="0 0 600 132" preserveAspectRatio="none" role="img"
                aria-label="Attempts that succeeded and failed in each of the last 60 seconds" {}
            div.axis {
                span { "60 s ago" }
                span.key { span.ok { "succeeded" } span.bad { "failed" } }
                span { "now" }
            }
        }
    }
}

/// The table that the script fills.
fn rows() -> Markup {
    html! {
        table.cards {
            caption.unseen { "What has happened, the newest first" }
            thead {
                tr {
                    th scope="col" { "Time" }
                    th scope="col" { "What" }
                    th scope="col" { "Event type" }
                    th scope="col" { "Receiver" }
                    th scope="col" { "Answer" }
                    th.number scope="col" { "Took" }
                }
            }
            tbody {}
        }
        p.hint.until-rows { "What happens from now on stands here." }
    }
}

/// The feed of the page, for those who have signed in.
///
/// # Errors
/// As `GET /live`.
pub(crate) async fn feed(visit: &Visit) -> Result<Response, ApiError> {
    let wanted = Wanted::parse(visit.query.get("topics"), &visit.access)?;
    let (tenant, subscription) = (visit.query.get("tenant_id"), visit.query.get("subscription_id"));
    let viewer = visit.app.viewer(&visit.access, tenant, subscription, visit.last_event_id.as_deref()).await?;
    Ok(stream(viewer, wanted, Naming::None, visit.access.ends()).into_response())
}
