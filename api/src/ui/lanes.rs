//! The lanes in which deliveries are due and wait, why each waits, the processes that should take them, and whether the
//! machine is sound.

use maud::{Markup, html};
use postrider_core::{
    subscription::late_lanes::{self, COUNTED_MAX, LISTED_MAX, LateLane, LateLanes},
    upkeep::examination::Examination,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries::name,
        page::{Page, Section, Visit},
        parts::{self, Tone, nothing, panel},
        processes, soundness,
        subscription::held,
    },
};

/// The page.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    Ok(with(visit, None).await)
}

/// The page with what an examination of the database has found.
pub(super) async fn with(visit: &Visit, found: Option<&Examination>) -> Page {
    let body = if visit.access.tenant().is_some() {
        parts::empty(
            visit,
            "route",
            "This page is for the whole installation",
            &html! {
                p { "Your key reaches one tenant. The page of each subscription says why its deliveries wait." }
                p { a.button href=(visit.to("subscriptions")) { "To the subscriptions" } }
            },
        )
    } else {
        match late_lanes::list(visit.pool()).await {
            Ok(late) => show(visit, &late).await,
            Err(error) => parts::trouble(visit, &error.into()),
        }
    };
    let body = html! {
        (parts::head(&parts::text("Workers and lanes"), &html! {
            "Each subscription has a lane in which its deliveries wait until a worker takes them."
            @if visit.tenant().is_some() { " This page shows those of all tenants." }
        }, &nothing()))
        div #live hx-get=(visit.to("lanes")) hx-trigger="every 5s" hx-select="#live" hx-swap="outerMorph" {
            (panel("Lanes with deliveries that are due", &nothing(), &body))
            (processes::show(visit).await)
        }
        (soundness::show(visit, found).await)
    };
    Page::new(Section::Lanes, "Workers and lanes", body)
}

async fn show(visit: &Visit, late: &LateLanes) -> Markup {
    if late.lanes.is_empty() {
        return parts::empty(
            visit,
            "circle-check",
            "No lane is late",
            &html! {
                p { "Whatever is due is being delivered." }
            },
        );
    }
    html! {
        table.cards {
            caption.unseen { "Lanes that are late, the one that has waited longest first" }
            thead {
                tr {
                    th scope="col" { "Lane" }
                    th scope="col" { "Due since" }
                    th.number scope="col" { "Due" }
                    th.number scope="col" { "In flight" }
                    th scope="col" { "Held by" }
                }
            }
            tbody { @for lane in &late.lanes { (row(visit, lane).await) } }
        }
        @if late.is_more { p.hint { "These are the " (LISTED_MAX) " that have waited longest; there are more." } }
    }
}

async fn row(visit: &Visit, lane: &LateLane) -> Markup {
    let known = match lane.subscription {
        Some(id) => visit.app.cache.get(id).await.ok().flatten(),
        None => None,
    };
    let counted = |count: i64| html! { (parts::count(count)) @if count >= COUNTED_MAX { "+" } };
    html! {
        tr {
            th scope="row" {
                @match lane.subscription {
                    Some(id) => {
                        a.open href=(visit.to(format!("subscriptions/{id}"))) {
                            (known.map_or_else(|| parts::short(id), |known| name(&known)))
                        }
                        span.sub.mono { (parts::short(id)) }
                    }
                    None => { "Inline deliveries" span.sub.mono { (lane.lane) } }
                }
            }
            td data-label="Due since" { (parts::time(visit, lane.since)) }
            td.number data-label="Due" { (counted(lane.due)) }
            td.number data-label="In flight" { (counted(lane.in_flight)) }
            td data-label="Held by" {
                @if lane.holds.is_empty() {
                    (parts::badge(visit, Tone::Bad, "circle-alert", "Nothing"))
                    span.sub { "no worker has room for it, or none runs" }
                }
                @for (hold, until) in &lane.holds {
                    (held(visit, *hold))
                    @if let Some(until) = until { span.sub { "until " (parts::time(visit, *until)) } }
                }
            }
        }
    }
}
