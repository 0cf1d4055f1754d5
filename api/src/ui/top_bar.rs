//! The bar on top of every page: the environment, the search, saved views, the tenant, the time zone, the colours, and
//! who has signed in.

use maud::{Markup, html};

use crate::ui::{
    fields::{CURSOR, TENANT, query},
    page::{Theme, Visit, Who},
    portal,
};

/// The bar.
pub(crate) fn show(visit: &Visit) -> Markup {
    let environment = visit.app.environment.as_ref();
    let class = environment.map_or_else(|| "bar".to_owned(), |one| format!("bar marked {}", one.class()));
    html! {
        header class=(class) {
            @if let Some(environment) = environment {
                span.environment title="The environment" { span.unseen { "Environment: " } (environment) }
            }
            form.search role="search" action=(visit.to("find")) method="get" {
                @if let Some(tenant) = visit.tenant() { input type="hidden" name=(TENANT) value=(tenant); }
                (visit.icon("search"))
                label.unseen for="q" { "Go to an id, an event type, a host, or words such as status:pending" }
                input #q name="q" type="search" autocomplete="off" spellcheck="false"
                    list="search-words" placeholder="An id, a type, a host, or status:pending";
                datalist #search-words {}
                kbd aria-hidden="true" { "/" }
            }
            div.tools {
                (tenants(visit))
                (views(visit))
                (zones())
                button.quiet.only-script #live-toggle type="button" aria-pressed="false"
                    aria-label="Pause live updates" title="Pause live updates" {
                    (visit.icon("pause")) span { "Live" }
                }
                (themes(visit))
                (visitor(visit))
            }
        }
    }
}

/// In which zone times are shown, and how exactly. Only scripts can turn them, so without scripts there is no menu.
fn zones() -> Markup {
    html! {
        details.menu.only-script #zones {
            summary title="Times are in UTC" { span #zone { "UTC" } }
            div {
                div {
                    label for="zone-choice" { "Times are shown in" }
                    select #zone-choice {}
                }
                label.tick { input #exact-times type="checkbox"; span { "To the millisecond" } }
                p { kbd { "z" } " changes between UTC, local time and the zone that was chosen last." }
            }
        }
    }
}

/// The choice of a tenant, for keys that reach every tenant. It leads to the same list of another tenant; from the page
/// of a single thing, to the list of its kind.
fn tenants(visit: &Visit) -> Markup {
    if visit.access.tenant().is_some() {
        return html! {};
    }
    let list = visit.path.split('/').next().unwrap_or_default();
    let is_list = !visit.path.contains('/');
    let kept = visit.query.with(CURSOR, None).with(TENANT, None);
    let kept: Vec<_> = kept.pairs().filter(|_| is_list).collect();
    let (class, word) = match visit.tenant() {
        Some(tenant) => ("menu tenant chosen", tenant),
        None => ("menu tenant", "All tenants"),
    };
    html! {
        details class=(class) {
            summary title=(format!("Tenant: {word}")) { (visit.icon("users")) span { (word) } }
            div {
                form method="get" action=(visit.to_all(list)) {
                    @for (name, value) in &kept { input type="hidden" name=(name) value=(value); }
                    div {
                        label for="chosen-tenant" { "Show what belongs to the tenant" }
                        input #chosen-tenant name=(TENANT) type="text" required maxlength="64" autocomplete="off"
                            spellcheck="false" value=(visit.tenant().unwrap_or_default());
                    }
                    button type="submit" { (visit.icon("check")) "Show" }
                }
                p { a href=(visit.to_all("tenants")) { "Choose from the list" } }
                @if visit.tenant().is_some() {
                    p { a href=(visit.to_all(format!("{list}{}", query(kept.iter().copied())))) { "All tenants" } }
                }
            }
        }
    }
}

/// Views: pages with filters that one looks at again and again. Some come with the dashboard; a script keeps the
/// visitor's own in the browser, so without scripts there is no menu.
fn views(visit: &Visit) -> Markup {
    let today = visit.now.format("%Y-%m-%dT00:00").to_string();
    let dead_today = query([("view", "list"), ("since", today.as_str())]);
    let built_in = [
        ("Failing now", "subscriptions?failing=true".to_owned()),
        ("Circuit open", "subscriptions?circuit=open".to_owned()),
        ("Dead letters today", format!("dead-letters{dead_today}")),
        ("Waiting deliveries", "deliveries?status=pending".to_owned()),
        ("In flight", "deliveries?status=in_flight".to_owned()),
        ("Slower than 5 s", "deliveries?slower_than_ms=5000".to_owned()),
        ("Jobs running", "jobs?state=running".to_owned()),
    ];
    html! {
        details.menu.only-script #views data-root=(visit.root) data-page=(visit.path) {
            summary title="Views and links" { (visit.icon("bookmark")) span { "Views" } }
            div {
                div.links {
                    button type="button" data-link="live" {
                        (visit.icon("link")) "Copy the link" kbd aria-hidden="true" { "c" }
                    }
                    @if has_time(visit) {
                        button type="button" data-link="fixed" title="Shows later what is shown now" {
                            (visit.icon("link")) "Copy it with fixed times"
                        }
                    }
                }
                ul.places { @for (name, path) in &built_in { li { a href=(visit.to(path)) { (name) } } } }
                ul.places #own-views aria-label="Views of your own" hidden {}
                form #keep-view {
                    div {
                        label for="view-name" { "Keep this page as" }
                        input #view-name type="text" required maxlength="60" autocomplete="off";
                    }
                    button type="submit" { (visit.icon("plus")) "Keep" }
                }
                details.as-text {
                    summary { "As text" }
                    form #views-text-form {
                        div {
                            label for="views-text" { "Your views, one a line: its name, “=” and its address" }
                            textarea.mono #views-text rows="5" spellcheck="false" {}
                        }
                        button type="submit" { (visit.icon("check")) "Take this text" }
                    }
                }
            }
        }
    }
}

/// What the key may do with which somebody has signed in.
fn holder(visit: &Visit, name: &str) -> Markup {
    html! {
        "Signed in with " strong { (name) } ", which reaches "
        @match visit.access.tenant() {
            Some(tenant) => { "the tenant " strong { (tenant) } }
            None => "every tenant",
        }
        " and may " (if visit.may_administer() { "do everything" }
            else if visit.may_manage() { "read and change" } else { "read" }) "."
    }
}

/// Whether the page shows a span of time, so that a link to it can have a fixed one.
fn has_time(visit: &Visit) -> bool {
    match visit.path.split('/').collect::<Vec<_>>()[..] {
        ["" | "deliveries" | "events" | "dead-letters" | "audit"] | ["subscriptions", _, "deliveries"] => true,
        ["subscriptions", id] => id != "new",
        _ => false,
    }
}

fn themes(visit: &Visit) -> Markup {
    html! {
        form.themes method="post" action=(visit.to("theme")) {
            input type="hidden" name="back" value=(format!("{}{}", visit.path, visit.query.query()));
            @for (theme, symbol, words) in [
                (Theme::Auto, "monitor", "Colours of the system"),
                (Theme::Light, "sun", "Light colours"),
                (Theme::Dark, "moon", "Dark colours"),
            ] {
                button type="submit" name="theme" value=(theme) title=(words) aria-label=(words)
                    aria-pressed=(visit.theme == theme) { (visit.icon(symbol)) }
            }
        }
    }
}

/// Who has signed in, what that person may do, and the way out.
fn visitor(visit: &Visit) -> Markup {
    let (symbol, name, said) = match &visit.who {
        Who::KeyHolder { name } => ("key-round", name.as_str(), holder(visit, name)),
        Who::Customer { until } => {
            ("link", visit.access.tenant().unwrap_or_default(), portal::explained(visit, *until))
        }
    };
    html! {
        details.menu.who {
            summary title=(name) { (visit.icon(symbol)) span { (name) } }
            div {
                p { (said) }
                form method="post" action=(visit.to("sign-out")) {
                    button type="submit" { (visit.icon("log-out")) "Sign out" }
                }
                button.only-script #keys-toggle type="button" aria-pressed="true" {
                    (visit.icon("settings")) span { "Keys are on" }
                }
            }
        }
    }
}
