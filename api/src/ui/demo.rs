//! The demo: a card for each demo receiver, and the latest deliveries, as they change.

use chrono::TimeDelta;
use maud::{Markup, html};
use postrider_core::{
    delivery::{Delivery, list as delivery_list},
    demo::{
        self, Demo, Kind, TENANT,
        cards::{self, Card, Light},
    },
};

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries,
        page::{Next, Page, Section, Visit},
        parts::{self, Button, Tone, Weight, nothing, panel},
        rows,
    },
};

/// Deliveries that the page shows.
const ROWS: i64 = 12;

/// The page.
///
/// # Errors
/// Not found where the operator has not switched the demo on.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let body = match visit.app.has_demo_for(&visit.access) {
        Ok(()) => show(visit, demo::current(visit.pool()).await?.as_ref()).await,
        Err(error @ ApiError::Forbidden(_)) => elsewhere(visit, &error),
        Err(error) => return Err(error),
    };
    Ok(Page::new(Section::Overview, "Demo", body))
}

fn elsewhere(visit: &Visit, error: &ApiError) -> Markup {
    let body = parts::empty(
        visit,
        "play",
        "The demo is not for your key",
        &html! {
            p { "What it makes belongs to a tenant of its own: " (error.problem().detail()) "." }
            p { a.button href=(visit.to("")) { "To the overview" } }
        },
    );
    html! { (parts::head(&parts::text("Demo"), &nothing(), &nothing())) section.panel { (body) } }
}

async fn show(visit: &Visit, demo: Option<&Demo>) -> Markup {
    let is_running = demo.is_some_and(|demo| demo.removed_at.is_none());
    let actions = html! {
        @if visit.may_manage() {
            @if is_running {
                (Button { action: "demo/stop".to_owned(), icon: "x", word: "End the demo", weight: Weight::Usual }
                    .form(visit))
            } @else {
                (Button { action: "demo".to_owned(), icon: "play", word: "Run demo", weight: Weight::Main }.form(visit))
            }
        }
    };
    let sentence = html! {
        "Four receivers of this machine get events for a minute: one takes everything, one fails now and then, one is "
        "slow, and one always fails."
    };
    html! {
        div #live hx-get=(visit.to("demo")) hx-trigger=(if is_running { "every 1s" } else { "every 5s" })
            hx-select="#live" hx-swap="outerMorph" {
            (parts::head(&parts::text("Demo"), &sentence, &actions))
            @match demo {
                Some(demo) => { (progress(visit, demo)) (lights(visit, demo).await) (latest(visit).await) }
                None => {
                    section.panel {
                        (parts::empty(visit, "play", "Nothing has run yet", &html! {
                            p {
                                "The demo makes four subscriptions in the tenant " code { (TENANT) } ", and removes "
                                "them again by itself."
                            }
                        }))
                    }
                }
            }
            noscript { p.hint { "Without scripts, reload the page to see how it goes on." } }
        }
    }
}

/// What happens now, and until when.
fn progress(visit: &Visit, demo: &Demo) -> Markup {
    let (tone, symbol, sentence) = match demo.removed_at {
        Some(at) => {
            let ended = parts::distance(at - visit.now);
            (Tone::Plain, "circle-check", format!("It has ended {ended}, and what it had made is removed."))
        }
        None if visit.now < demo.emits_until => {
            let left = parts::span(demo.emits_until - visit.now);
            (Tone::Info, "activity", format!("Events are made for {left} more."))
        }
        None => {
            let left = parts::span((demo.ends_at - visit.now).max(TimeDelta::zero()));
            let sentence = format!("All events are made. What is left is tried again, and all is removed in {left}.");
            (Tone::Info, "hourglass", sentence)
        }
    };
    html! {
        section class=(format!("verdict {}", tone.class())) aria-label="How far the demo is" {
            (visit.icon(symbol))
            div { p.sentence { (sentence) } }
        }
    }
}

async fn lights(visit: &Visit, demo: &Demo) -> Markup {
    match cards::read(visit.pool(), demo).await {
        Ok(cards) => html! { div.lights { @for card in &cards { (light(visit, card, demo)) } } },
        Err(error) => parts::trouble(visit, &error.into()),
    }
}

fn light(visit: &Visit, card: &Card, demo: &Demo) -> Markup {
    let (tone, symbol, word) = match card.light {
        Light::Idle => (Tone::Plain, "clock", "Nothing yet"),
        Light::Green => (Tone::Ok, "circle-check", "All arrives"),
        Light::Yellow if card.counts.retrying > 0 => (Tone::Warn, "rotate-cw", "Tried again"),
        Light::Yellow => (Tone::Warn, "hourglass", "Deliveries wait"),
        Light::Red if card.counts.dead_letters > 0 => (Tone::Bad, "mail-x", "Given up"),
        Light::Red => (Tone::Bad, "circle-x", "Failing"),
    };
    let title = match card.kind {
        Kind::Success => "Takes everything",
        Kind::Flaky => "Fails now and then",
        Kind::Slow => "Is slow",
        Kind::Failing => "Always fails",
    };
    let counts = &card.counts;
    let is_there = demo.removed_at.is_none();
    html! {
        article class=(format!("light {}", tone.class())) data-light=(card.light) id=(format!("light-{}", card.kind)) {
            h2 {
                @if is_there { a href=(visit.to(format!("subscriptions/{}", card.subscription_id))) { (title) } }
                @else { (title) }
            }
            p { (parts::badge(visit, tone, symbol, word)) " " (parts::circuit(visit, card.circuit)) }
            dl {
                (count("Succeeded", counts.succeeded))
                (count("To be tried again", counts.retrying))
                (count("Waiting, in flight", counts.waiting + counts.in_flight))
                (count("Dead letters", counts.dead_letters))
            }
        }
    }
}

fn count(word: &str, number: i64) -> Markup {
    html! { div { dt { (word) } dd { (parts::count(number)) } } }
}

async fn latest(visit: &Visit) -> Markup {
    let all = html! { a href=(visit.to(format!("deliveries?tenant_id={TENANT}"))) { "All deliveries" } };
    let list = match recent(visit).await {
        Ok(recent) if recent.is_empty() => html! { p { "The first events are about to come." } },
        Ok(recent) => deliveries::table(visit, &recent, "The latest deliveries of the demo").await,
        Err(error) => parts::trouble(visit, &error),
    };
    panel("Latest deliveries", &all, &list)
}

async fn recent(visit: &Visit) -> Result<Vec<Delivery>, ApiError> {
    let filter = delivery_list::Filter { tenant_id: Some(TENANT.to_owned()), ..delivery_list::Filter::default() };
    Ok(delivery_list::list(visit.pool(), &filter, rows::first(ROWS)).await?.items)
}

/// The button that runs the demo; nothing where the visitor may not.
pub(crate) fn button(visit: &Visit) -> Markup {
    if !visit.may_manage() || visit.app.has_demo_for(&visit.access).is_err() {
        return nothing();
    }
    Button { action: "demo".to_owned(), icon: "play", word: "Run demo", weight: Weight::Usual }.form(visit)
}

/// Runs the demo, and shows it.
pub(crate) async fn start(visit: &Visit) -> Result<Next, ApiError> {
    visit.app.start_demo(&visit.access).await?;
    Ok(Next::done("demo", "The demo runs."))
}

/// Ends the demo.
pub(crate) async fn stop(visit: &Visit) -> Result<Next, ApiError> {
    visit.app.stop_demo(&visit.access).await?;
    Ok(Next::done("demo", "The demo has ended. What it had made is removed."))
}
