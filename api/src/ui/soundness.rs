//! Whether the machine is sound, for those who run it: the sizes of the tables, how far partitions reach, the settings
//! in force, and an examination of the database that is made when somebody asks for it.

use std::collections::BTreeSet;

use maud::{Markup, html};
use postrider_core::{
    access::api_key::Scope,
    id::{DeliveryId, SubscriptionId},
    process::{
        config::Setting,
        heartbeat::{self, InForce, ProcessKind},
    },
    upkeep::{
        examination::{self, Examination, TIME_MAX, examine},
        invariants::Violation,
        tables::{self, Table},
    },
};

use crate::{
    serve::problem::ApiError,
    ui::{
        lanes,
        page::{Next, Visit},
        parts::{self, Button, Weight, nothing, panel},
    },
};

/// The kinds of processes, and what the page calls them.
const KINDS: [(ProcessKind, &str); 2] = [(ProcessKind::Api, "api"), (ProcessKind::Worker, "worker")];

/// The tables that matter most: those with many rows, and those whose rows come and go.
const MAIN_TABLES: [&str; 10] = [
    "events",
    "deliveries",
    "attempts",
    "queue",
    "lanes",
    "dead_letters",
    "outbox",
    "idempotency_keys",
    "stats_minute",
    "audit_log",
];

/// The panels, for keys with the scope `admin` that reach every tenant. `found` is what an examination has found.
pub(super) async fn show(visit: &Visit, found: Option<&Examination>) -> Markup {
    if !visit.may_administer() || visit.access.tenant().is_some() {
        return nothing();
    }
    let pool = visit.pool();
    let (until, tables, settings) =
        tokio::join!(tables::partitions_until(pool), tables::list(pool), heartbeat::settings(pool));
    let until = html! {
        @if let Ok(Some(until)) = until { span.sub { "partitions until " (parts::time(visit, until)) } }
    };
    let tables = match tables {
        Ok(tables) => sizes(visit, &tables),
        Err(error) => parts::trouble(visit, &error.into()),
    };
    let settings = match settings {
        Ok(settings) => in_force(&settings),
        Err(error) => parts::trouble(visit, &error.into()),
    };
    html! {
        (panel("Is the database sound?", &nothing(), &examined(visit, found)))
        (panel("Tables", &until, &tables))
        (panel("Settings in force", &nothing(), &settings))
    }
}

/// Examines the database, and shows what was found.
pub(crate) async fn examination(visit: &Visit) -> Result<Next, ApiError> {
    visit.require(Scope::Admin)?;
    visit.access.is_of_every_tenant()?;
    let found = examine(&visit.app.pool).await?;
    Ok(Next::Show(lanes::with(visit, Some(&found)).await))
}

fn examined(visit: &Visit, found: Option<&Examination>) -> Markup {
    html! {
        p {
            "What " code { "worker doctor" } " checks: rules that must hold at any moment, and work that nobody does. "
            "It reads whole tables, for " (examination::TIME_MAX.as_secs()) " seconds at most, and changes nothing."
        }
        @if let Some(found) = found { (told(visit, found)) }
        (Button {
            action: "lanes/examine".to_owned(), icon: "activity", word: "Examine the database", weight: Weight::Usual,
        }.form(visit))
    }
}

fn told(visit: &Visit, found: &Examination) -> Markup {
    let took = parts::millis(i64::try_from(found.took.as_millis()).unwrap_or(i64::MAX));
    let (class, icon, sentence) = match &found.violations {
        None => (
            "warn",
            "circle-alert",
            format!(
                "The tables are too large for {} seconds. Run worker doctor on a machine near them.",
                TIME_MAX.as_secs()
            ),
        ),
        Some(violations) if violations.is_empty() && found.stuck.is_empty() => {
            ("ok", "circle-check", format!("Every rule holds, and nothing is stuck. Checked in {took}."))
        }
        Some(violations) if violations.is_empty() => {
            ("warn", "circle-alert", format!("Every rule holds, but work is stuck. Checked in {took}."))
        }
        Some(violations) => (
            "bad",
            "triangle-alert",
            format!(
                "{} rules do not hold. While deliveries are made, ask again: what stays is a fault, so please report \
                 it. Checked in {took}.",
                violations.len()
            ),
        ),
    };
    html! {
        div.note.(class) role="status" { (visit.icon(icon)) p { (sentence) } }
        @if !found.stuck.is_empty() { ul.plain-list { @for line in &found.stuck { li { (line) } } } }
        @if let Some(violations) = &found.violations {
            @if !violations.is_empty() {
                ul.plain-list { @for one in violations { li { (violation(visit, one)) } } }
            }
        }
    }
}

/// A broken rule. The id is that of a delivery or of a lane, which is the subscription's.
fn violation(visit: &Visit, one: &Violation) -> Markup {
    let path = if one.violation.contains("lane") {
        format!("subscriptions/{}", SubscriptionId(one.id))
    } else {
        format!("deliveries/{}", DeliveryId(one.id))
    };
    html! { (one.violation) ": " a.mono href=(visit.to(path)) { (one.id) } }
}

/// The tables on which deliveries depend, and the others behind them.
fn sizes(visit: &Visit, tables: &[Table]) -> Markup {
    let (main, rest): (Vec<_>, Vec<_>) = tables.iter().partition(|table| MAIN_TABLES.contains(&table.name.as_str()));
    html! {
        (table_of(visit, "The main tables, the largest first", &main))
        @if !rest.is_empty() {
            details { summary { "All other tables (" (rest.len()) ")" } (table_of(visit, "All other tables", &rest)) }
        }
    }
}

fn table_of(visit: &Visit, caption: &str, tables: &[&Table]) -> Markup {
    html! {
        table.cards {
            caption.unseen { (caption) }
            thead {
                tr {
                    th scope="col" { "Table" }
                    th.number scope="col" { "Size" }
                    th.number scope="col" { "Rows, about" }
                    th.number scope="col" { "Dead rows" }
                    th.number scope="col" { "Partitions" }
                    th scope="col" { "Vacuumed" }
                }
            }
            tbody {
                @for table in tables {
                    tr {
                        th.mono scope="row" { (table.name) }
                        td.number data-label="Size" { (parts::bytes(table.bytes)) }
                        td.number data-label="Rows, about" { (parts::count(table.rows)) }
                        td.number data-label="Dead rows" { (parts::count(table.dead)) }
                        td.number data-label="Partitions" {
                            @if table.partitions > 0 { (parts::count(table.partitions)) } @else { span.none { "–" } }
                        }
                        td data-label="Vacuumed" { (parts::maybe_time(visit, table.vacuumed_at)) }
                    }
                }
            }
        }
    }
}

fn in_force(processes: &[InForce]) -> Markup {
    if processes.is_empty() {
        return html! { p { "No process has told its settings yet." } };
    }
    html! {
        p { "With these values the processes were started. Secrets are not shown." }
        @for (kind, word) in KINDS {
            @let of_kind: Vec<_> = processes.iter().filter(|one| one.kind == kind).collect();
            @if !of_kind.is_empty() {
                details.settings-of {
                    summary { (word) ": " (of_kind.len()) @if of_kind.len() == 1 { " process" } @else { " processes" } }
                    (values(word, &of_kind))
                }
            }
        }
    }
}

fn values(word: &str, processes: &[&InForce]) -> Markup {
    let names: BTreeSet<_> = processes.iter().flat_map(|one| one.settings.keys()).collect();
    html! {
        table.cards {
            caption.unseen { "The settings of each " (word) }
            thead { tr { th scope="col" { "Name" } th scope="col" { "Value" } } }
            tbody {
                @for name in names {
                    @let told: Vec<_> = processes.iter().map(|one| (one, one.settings.get(name))).collect();
                    @let is_same = told.windows(2).all(|pair| pair[0].1 == pair[1].1);
                    tr {
                        th.mono scope="row" { (name) }
                        td data-label="Value" {
                            @for (process, setting) in told.iter().take(if is_same { 1 } else { told.len() }) {
                                div {
                                    (value(*setting))
                                    @if !is_same { span.sub { "on " (process.host) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn value(setting: Option<&Setting>) -> Markup {
    html! {
        @match setting {
            None => span.none { "–" },
            Some(Setting { value: None, .. }) => span.sub { "set, not shown" },
            Some(Setting { value: Some(value), is_set }) => {
                @if value.is_empty() { span.none { "empty" } } @else { code { (value) } }
                @if !is_set { " " span.sub { "by default" } }
            },
        }
    }
}
