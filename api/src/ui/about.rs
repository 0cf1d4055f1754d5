//! About this installation: its version, where else to look, and what the pages are made of.

use maud::html;

use crate::ui::{
    page::{Page, Section, Visit},
    parts::{self, facts, nothing, panel},
};

/// The page.
pub(crate) fn page(visit: &Visit) -> Page {
    let link = |path: &str, word: &str| html! { a href=(visit.outside(path)) { (word) } };
    let pairs = [
        ("Version", parts::text(env!("CARGO_PKG_VERSION"))),
        ("Address", html! { span.mono { (visit.address) } }),
        ("The API", html! { (link("swagger", "Swagger")) " · " (link("openapi.json", "OpenAPI document")) }),
        ("Metrics", html! { (link("metrics", "Prometheus")) }),
        ("Health", html! { (link("health/live", "alive")) " · " (link("health/ready", "ready")) }),
        ("License", parts::text("MIT")),
    ];
    let keys = [
        ("/", "go to the search"),
        ("j and k", "next and previous row"),
        ("Enter", "open the row"),
        ("o", "open the row in a new tab"),
        ("x", "tick the row"),
        ("r", "retry the row, or the delivery of the page"),
        ("y", "copy the id of the row, or of the page"),
        ("c", "copy the link to the page"),
        ("[ and ]", "previous and next page of a list"),
        ("g o", "Overview"),
        ("g d", "Deliveries"),
        ("g l", "Dead letters"),
        ("g s", "Subscriptions"),
        ("g e", "Events"),
        ("g j", "Jobs"),
        ("g m", "Emitters"),
        ("g v", "Live"),
        ("g w", "Workers and lanes"),
        ("g t", "Tenants"),
        ("?", "these keys"),
        ("t", "other colours"),
        ("p", "pause and resume live updates"),
        ("z", "UTC, local times, or the zone that was chosen"),
        ("Esc", "close what is open"),
    ];
    let libraries = [
        ("htmx", "updates parts of pages; BSD Zero Clause"),
        ("Lucide", "draws the icons; ISC"),
        ("maud", "makes the HTML; MIT or Apache 2.0"),
    ];
    let body = html! {
        (parts::head(
            &parts::text("About"), &parts::text("Reliable webhook delivery with Postgres as its only moving part."),
            &nothing(),
        ))
        (panel("This installation", &nothing(), &facts(&pairs)))
        (panel("Keys", &nothing(), &html! {
            p { "In the menu of your key, keys can be switched off, for this browser." }
            dl.facts.keys #keys { @for (key, what) in keys { div { dt { kbd { (key) } } dd { (what) } } } }
        }))
        (panel("What the pages are made of", &nothing(), &html! {
            dl.facts { @for (name, what) in libraries { div { dt { (name) } dd { (what) } } } }
        }))
    };
    Page::new(Section::About, "About", body)
}
