//! The processes that run this installation: apis and workers, how busy they are, and what went wrong in them last.

use maud::{Markup, html};
use postrider_core::process::heartbeat::{self, Process, ProcessKind, ProcessState};

use crate::ui::{
    page::Visit,
    parts::{self, Tone, nothing, panel},
};

/// The panel, for those who may see it: keys with the scope `admin` that reach every tenant.
pub(crate) async fn show(visit: &Visit) -> Markup {
    if !visit.may_administer() || visit.access.tenant().is_some() {
        return nothing();
    }
    let body = match heartbeat::list(visit.pool()).await {
        Ok(processes) if processes.is_empty() => parts::empty(
            visit,
            "activity",
            "No process has shown itself",
            &html! {
                p { "Each api and each worker shows itself every few seconds." }
            },
        ),
        Ok(processes) => table(visit, &processes),
        Err(error) => parts::trouble(visit, &error.into()),
    };
    panel("Processes", &nothing(), &body)
}

fn table(visit: &Visit, processes: &[Process]) -> Markup {
    html! {
        table.cards {
            caption.unseen { "Processes, the last started first" }
            thead {
                tr {
                    th scope="col" { "State" }
                    th scope="col" { "Process" }
                    th scope="col" { "Version" }
                    th scope="col" { "Places" }
                    th.number scope="col" { "Claims a second" }
                    th scope="col" { "Started" }
                    th scope="col" { "Last seen" }
                }
            }
            tbody { @for process in processes { (row(visit, process)) } }
        }
    }
}

fn row(visit: &Visit, process: &Process) -> Markup {
    let state = match process.state {
        ProcessState::Alive => parts::badge(visit, Tone::Ok, "circle-check", "Alive"),
        ProcessState::Gone => parts::badge(visit, Tone::Bad, "circle-x", "Gone"),
    };
    let kind = match process.kind {
        ProcessKind::Api => "api",
        ProcessKind::Worker => "worker",
    };
    html! {
        tr {
            td { (state) }
            th scope="row" {
                (kind) span.sub.clip { (process.host) }
                @if let Some(error) = &process.last_error {
                    span.sub { "last error " (parts::distance(error.at - visit.now)) ": " (error.message) }
                }
            }
            td data-label="Version" { (process.version) }
            td data-label="Places" { (places(process)) }
            td.number data-label="Claims a second" {
                @match process.claims_per_second {
                    Some(claims) => (format!("{claims:.1}")),
                    None => span.none { "–" },
                }
            }
            td data-label="Started" { (parts::time(visit, process.started_at)) }
            td data-label="Last seen" { (parts::time(visit, process.seen_at)) }
        }
    }
}

/// How many of a worker's places are taken.
fn places(process: &Process) -> Markup {
    let (Some(used), Some(free)) = (process.places_used, process.places_free) else {
        return html! { span.none { "–" } };
    };
    html! {
        span.progress {
            meter min="0" max=(used + free) value=(used) aria-label="Places that are taken" {}
            span { (used) " of " (used + free) }
        }
    }
}
