//! The audit log: who changed what, with what was there before and after.

use maud::{Markup, html};
use postrider_core::{
    access::{
        api_key::Scope,
        audit::{self, Entry, Filter},
    },
    id::AuditId,
};
use serde_json::Value;

use crate::{
    serve::{list::span, problem::ApiError},
    ui::{
        deliveries::filters::{moment, time_field},
        page::{Page, Section, Visit},
        parts::{self, nothing},
        rows::{Rows, window},
    },
};

/// The filters, by their names in the API.
const FILTERS: [&str; 5] = ["actor", "action", "target_id", "since", "until"];

/// The page.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    visit.require(Scope::Admin)?;
    let list = match list(visit).await {
        Ok(rows) => show(visit, &rows),
        Err(error) => parts::trouble(visit, &error),
    };
    let body = html! {
        (parts::head(&parts::text("Audit log"), &html! {
            "Who changed what. Entries are kept for a year, and hold no secrets."
        }, &nothing()))
        (filters(visit))
        section.panel #list { (list) }
    };
    Ok(Page::new(Section::Audit, "Audit log", body))
}

async fn list(visit: &Visit) -> Result<Rows<Entry>, ApiError> {
    let fields = &visit.query;
    let named = |name: &str| fields.get(name).map(str::to_owned);
    let filter = Filter {
        tenant_id: visit.lists()?,
        actor: named("actor"),
        action: named("action"),
        target_id: named("target_id"),
        span: span(moment("since", fields.get("since"), visit.now)?, moment("until", fields.get("until"), visit.now)?)?,
    };
    let found = audit::list(visit.pool(), &filter, window(visit, |id: AuditId| id.0)?).await?;
    Ok(Rows::whole(found, |entry| entry.id))
}

fn show(visit: &Visit, rows: &Rows<Entry>) -> Markup {
    if rows.is_empty() {
        return parts::empty(
            visit,
            "scroll-text",
            "No entries",
            &html! {
                p { "Nothing was changed, or nothing that matches." }
            },
        );
    }
    html! {
        (table(visit, &rows.items))
        (rows.foot(visit, AuditId::PREFIX, "entries"))
    }
}

/// The entries.
pub(super) fn table(visit: &Visit, entries: &[Entry]) -> Markup {
    html! {
        table.cards {
            caption.unseen { "Changes" }
            thead {
                tr {
                    th scope="col" { "When" }
                    th scope="col" { "What" }
                    th scope="col" { "Who" }
                    th scope="col" { "Of what" }
                    th scope="col" { "How it changed" }
                }
            }
            tbody {
                @for entry in entries {
                    tr {
                        td data-label="When" { (parts::time(visit, entry.created_at)) }
                        th scope="row" { (entry.action) }
                        td.mono data-label="Who" { (parts::short(&entry.actor)) }
                        td data-label="Of what" { (target(visit, &entry.target_id)) }
                        td data-label="How it changed" { (changes(entry)) }
                    }
                }
            }
        }
    }
}

/// The id of what was changed, as a link where it has a page.
fn target(visit: &Visit, id: &str) -> Markup {
    let folder = [("sub_", "subscriptions"), ("job_", "jobs")].into_iter().find(|(prefix, _)| id.starts_with(prefix));
    html! {
        @match folder {
            Some((_, folder)) => a.mono href=(visit.to(format!("{folder}/{id}"))) { (parts::short(id)) },
            None => span.mono { (parts::short(id)) },
        }
    }
}

/// The fields that differ, before and after.
fn changes(entry: &Entry) -> Markup {
    let (before, after) = (fields_of(entry.before.as_ref()), fields_of(entry.after.as_ref()));
    let mut names: Vec<_> = before.iter().chain(&after).map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let value = |fields: &[(&str, &Value)], name: &str| {
        fields.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).clone()).unwrap_or_default()
    };
    let differing: Vec<_> = names
        .into_iter()
        .map(|name| (name, value(&before, name), value(&after, name)))
        .filter(|(_, before, after)| before != after)
        .collect();
    html! {
        @if differing.is_empty() { span.none { "–" } } @else {
            details {
                summary { (differing.len()) @if differing.len() == 1 { " field" } @else { " fields" } }
                dl.diff {
                    @for (name, before, after) in &differing {
                        div {
                            dt { (name) }
                            dd {
                                @if !before.is_null() { del { (before) } " " }
                                @if !after.is_null() { ins { (after) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn fields_of(value: Option<&Value>) -> Vec<(&str, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten().map(|(name, value)| (name.as_str(), value)).collect()
}

fn filters(visit: &Visit) -> Markup {
    let fields = &visit.query;
    let field = |name, label, kind, hint| parts::filter(fields, name, label, kind, hint);
    html! {
        (parts::in_use(visit, &FILTERS))
        details.filters {
            summary { (visit.icon("list-filter")) "Filters" }
            form method="get" action=(visit.to("audit")) {
                (field("actor", "Who", "text", "admin_key, postrider or key_…"))
                (field("action", "What", "text", "subscription.changed"))
                (field("target_id", "Of what", "text", "sub_…"))
                (time_field(fields, "since", "Since (UTC)"))
                (time_field(fields, "until", "Until (UTC)"))
                div.do {
                    button.button.main type="submit" { "Apply" }
                    a.button href=(visit.to("audit")) { "Clear" }
                }
            }
        }
    }
}
