//! The frame of every page: its head, the navigation, and the sentence about what was just done. The bar on top is in
//! `top_bar`.

use maud::{DOCTYPE, Markup, html};

use crate::ui::{
    assets::Assets,
    page::{Note, Page, Section, Theme, Visit},
    parts, top_bar,
};

/// How htmx is set up: it adds no styles, keeps no copies of pages, and leaves open what the reader has opened.
const HTMX: &str = r#"{"includeIndicatorCSS": false, "history": false, "morphIgnore": ["data-htmx-powered", "open"]}"#;

/// The scripts of all pages.
const SCRIPTS: [&str; 8] =
    ["copy.js", "time.js", "keys.js", "updates.js", "paths.js", "rows.js", "search.js", "views.js"];

/// An entry of the navigation: where it leads, its word and its icon.
struct Entry(Section, &'static str, &'static str, &'static str);

/// What everybody sees, in the order in which one looks for trouble.
const ENTRIES: [Entry; 10] = [
    Entry(Section::Overview, "", "Overview", "layout-dashboard"),
    Entry(Section::Deliveries, "deliveries", "Deliveries", "send"),
    Entry(Section::DeadLetters, "dead-letters", "Dead letters", "mail-x"),
    Entry(Section::Subscriptions, "subscriptions", "Subscriptions", "webhook"),
    Entry(Section::Events, "events", "Events", "radio-tower"),
    Entry(Section::Jobs, "jobs", "Jobs", "list-checks"),
    Entry(Section::Emitters, "emitters", "Emitters", "audio-waveform"),
    Entry(Section::Live, "live", "Live", "activity"),
    Entry(Section::Lanes, "lanes", "Workers, lanes", "route"),
    Entry(Section::Tenants, "tenants", "Tenants", "users"),
];

/// Parts that are about the installation. Whoever came by a portal link is a customer, and does not see them.
const OPERATORS: [Section; 2] = [Section::Lanes, Section::Tenants];

/// What needs the scope `admin`.
const ADMIN_ENTRIES: [Entry; 3] = [
    Entry(Section::Keys, "keys", "API keys", "key-round"),
    Entry(Section::PortalLinks, "portal-links", "Portal links", "external-link"),
    Entry(Section::Audit, "audit", "Audit log", "scroll-text"),
];

/// The whole document that shows a page.
pub(crate) fn document(visit: &Visit, page: &Page) -> String {
    let assets = visit.to_all("assets/");
    let body = html! {
        a.skip href="#main" { "Skip to the content" }
        div.frame {
            (navigation(visit, page.section))
            div.column {
                (top_bar::show(visit))
                main #main tabindex="-1" {
                    @if let Some(note) = &visit.note { (told(visit, note)) }
                    (page.body)
                }
                footer.foot {
                    @if visit.is_customer() { span { "Postrider" } }
                    @else {
                        span { "Postrider " (env!("CARGO_PKG_VERSION")) }
                        a href=(visit.to("about")) { "About" }
                        a href=(visit.outside("swagger")) { "API" }
                    }
                }
            }
        }
        div.announcer #announcer aria-live="polite" {}
    };
    let title = match &visit.app.environment {
        Some(environment) => format!("{} · {environment}", page.title),
        None => page.title.clone(),
    };
    whole(&title, &assets, visit.theme, &body, scripts(page.section))
}

/// What scripts a page of this part loads besides those of all pages.
fn scripts(section: Section) -> &'static [&'static str] {
    match section {
        Section::Events => &["post.js"],
        Section::Live => &["live.js"],
        Section::Overview
        | Section::Deliveries
        | Section::Subscriptions
        | Section::DeadLetters
        | Section::Jobs
        | Section::Emitters
        | Section::Lanes
        | Section::Tenants
        | Section::Keys
        | Section::PortalLinks
        | Section::Audit
        | Section::About
        | Section::Nowhere => &[],
    }
}

/// The document of a page that has no navigation, such as the one where people sign in. It loads these scripts besides
/// those of all pages.
pub(crate) fn bare(title: &str, root: &str, theme: Theme, body: &Markup, own_scripts: &[&str]) -> String {
    let body = html! {
        a.skip href="#main" { "Skip to the content" }
        main.alone #main tabindex="-1" { (body) }
    };
    whole(title, &format!("{root}assets/"), theme, &body, own_scripts)
}

fn whole(title: &str, assets: &str, theme: Theme, body: &Markup, own_scripts: &[&str]) -> String {
    let files = Assets::get();
    let link = |name: &str| files.file(name).map(|file| format!("{assets}{file}"));
    let document = html! {
        (DOCTYPE)
        html lang="en" data-theme=(theme) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                meta name="htmx-config" content=(HTMX);
                title { (title) " · Postrider" }
                link rel="icon" href="data:,";
                @if let Some(style) = link("style.css") { link rel="stylesheet" href=(style); }
                @if let Some(htmx) = link("htmx.js") { script src=(htmx) defer {} }
                @for name in SCRIPTS.iter().chain(own_scripts) {
                    @if let Some(script) = link(name) { script type="module" src=(script) {} }
                }
            }
            body { (body) }
        }
    };
    document.into_string()
}

fn navigation(visit: &Visit, section: Section) -> Markup {
    let entry = |Entry(own, path, word, symbol): &Entry| {
        html! {
            li {
                // From the list of tenants one chooses another one.
                @let link = if *own == Section::Tenants { visit.to_all(path) } else { visit.to(path) };
                a href=(link) aria-current=[(section == *own).then_some("page")] {
                    (visit.icon(symbol)) span { (word) }
                }
            }
        }
    };
    html! {
        nav.side aria-label="Pages" {
            div {
                a.brand href=(visit.to("")) { (visit.icon("mail-check")) span { "Postrider" } }
                ul {
                    @for one in ENTRIES.iter().filter(|one| is_shown(visit, one.0)) { (entry(one)) }
                    @if visit.may_administer() {
                        li.rule aria-hidden="true" {}
                        @for one in &ADMIN_ENTRIES { (entry(one)) }
                    }
                }
            }
        }
    }
}

fn is_shown(visit: &Visit, section: Section) -> bool {
    !(visit.is_customer() && OPERATORS.contains(&section))
}

fn told(visit: &Visit, note: &Note) -> Markup {
    match note {
        Note::Undoable { sentence, undo } => html! {
            div.note.ok {
                (visit.icon("circle-check"))
                p role="status" { (sentence) }
                form method="post" action=(visit.to(&undo.path)) {
                    (parts::back(visit))
                    @for id in &undo.deliveries { input type="hidden" name="id" value=(id); }
                    button type="submit" { (visit.icon("history")) "Undo" }
                }
            }
        },
        Note::Done(text) => html! { div.note.ok role="status" { (visit.icon("circle-check")) p { (text) } } },
        Note::Refused(text) => html! { div.note.bad role="alert" { (visit.icon("circle-alert")) p { (text) } } },
    }
}
