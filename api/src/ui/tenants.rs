//! The tenants: what each has used in the last 24 hours and the last 30 days, with links to what is theirs. The numbers
//! come from sums, so the page costs the same however much they have.

use maud::{Markup, html};
use postrider_core::{
    stats::tenants::{self, DAYS, SUBSCRIPTIONS_COUNTED_MAX, TenantUsage, Usage},
    tally::class::{Class, Kind},
};

use crate::{
    serve::problem::ApiError,
    ui::{
        fields::{CURSOR, TENANT, query},
        page::{Page, Section, Visit},
        parts,
        rows::{BY_NAME, paging},
    },
};

/// Tenants on a page.
const ROWS: usize = 20;
/// What stands before the name of a tenant in a cursor, so that no name is taken for a word of ours.
const CURSOR_PREFIX: &str = "after:";

/// The tenants of a page, and the cursor behind which the next one begins.
struct Shown {
    tenants: Vec<TenantUsage>,
    next: Option<String>,
}

/// The page.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let list = match list(visit).await {
        Ok(shown) => show(visit, &shown),
        Err(error) => parts::trouble(visit, &error),
    };
    let all = html! {
        @if visit.tenant().is_some() {
            a.button href=(visit.to_all("tenants")) { (visit.icon("x")) "Show all tenants" }
        }
    };
    let sentence = html! {
        "What each tenant has used in the last 24 hours, and in the last " (DAYS) " days."
    };
    let body = html! {
        (parts::head(&parts::text("Tenants"), &sentence, &all))
        section.panel #list { (list) }
    };
    Ok(Page::new(Section::Tenants, "Tenants", body))
}

async fn list(visit: &Visit) -> Result<Shown, ApiError> {
    let pool = visit.pool();
    if let Some(only) = visit.lists()? {
        return Ok(Shown { tenants: vec![tenants::of(pool, &only, visit.now).await?], next: None });
    }
    // The spaces around a name are part of it.
    let cursor = Some(visit.query.text(CURSOR)).filter(|cursor| !cursor.is_empty());
    let after = cursor.map(|cursor| cursor.strip_prefix(CURSOR_PREFIX));
    let after = after.map(|after| after.ok_or_else(|| ApiError::invalid(CURSOR, "is no place in this list")));
    let limit = i64::try_from(ROWS).unwrap_or(i64::MAX) + 1;
    let mut tenants = tenants::list(pool, after.transpose()?, limit, visit.now).await?;
    let is_more = tenants.len() > ROWS;
    tenants.truncate(ROWS);
    let next = tenants.last().filter(|_| is_more).map(|last| format!("{CURSOR_PREFIX}{}", last.tenant_id));
    Ok(Shown { tenants, next })
}

fn show(visit: &Visit, shown: &Shown) -> Markup {
    if shown.tenants.is_empty() {
        return parts::empty(
            visit,
            "users",
            "No tenants yet",
            &html! {
                p { "A tenant exists by being named: by a subscription, or by an event that is posted for it." }
                @if visit.may_manage() {
                    p { a.button.main href=(visit.to("subscriptions/new")) { (visit.icon("plus")) "New subscription" } }
                }
            },
        );
    }
    html! {
        table.cards.usage {
            caption.unseen { "Tenants in the order of their names" }
            thead {
                tr {
                    th scope="col" { "Tenant" }
                    th.number scope="col" { "Subscriptions" }
                    th.number scope="col" { "Events" }
                    th.number scope="col" { "Delivered" }
                    th.number scope="col" { "Failed attempts" }
                    th.number scope="col" { "Dead letters" }
                    th.number scope="col" { "Payloads" }
                    @if visit.may_administer() { th scope="col" { span.unseen { "Its keys and portal links" } } }
                }
            }
            tbody { @for one in &shown.tenants { (row(visit, one)) } }
        }
        (paging(visit, shown.next.as_deref(), &BY_NAME))
    }
}

fn row(visit: &Visit, one: &TenantUsage) -> Markup {
    let its = query([(TENANT, one.tenant_id.as_str())]);
    let link = |path: &str| visit.to(format!("{path}{its}"));
    let more = if one.subscriptions >= SUBSCRIPTIONS_COUNTED_MAX { "+" } else { "" };
    html! {
        tr {
            th scope="row" {
                a.open href=(link("")) { (one.tenant_id) }
            }
            td.number data-label="Subscriptions" {
                a href=(link("subscriptions")) { (parts::count(one.subscriptions)) (more) }
            }
            (cell("Events", one, Some(&link("events")), |usage| number(usage.accepted.events)))
            (cell("Delivered", one, Some(&link("deliveries")), |usage| number(usage.outcomes.of(Class::Succeeded))))
            (cell("Failed attempts", one, None, |usage| number(usage.outcomes.of_kind(Kind::Failure))))
            (cell("Dead letters", one, Some(&link("dead-letters")), |usage| {
                number(usage.outcomes.of(Class::DeadLetter))
            }))
            (cell("Payloads", one, None, |usage| {
                parts::bytes(i64::try_from(usage.accepted.bytes).unwrap_or(i64::MAX))
            }))
            @if visit.may_administer() {
                td.do {
                    a.button href=(link("keys")) { (visit.icon("key-round")) "Keys" }
                    a.button href=(link("portal-links")) { (visit.icon("external-link")) "Portal links" }
                }
            }
        }
    }
}

/// A number of the last 24 hours, with a link to what it counts where there is such a list, and below it that of the
/// last 30 days.
fn cell(label: &str, one: &TenantUsage, link: Option<&str>, say: impl Fn(&Usage) -> String) -> Markup {
    html! {
        td.number data-label=(label) {
            @match link {
                Some(link) => a href=(link) { (say(&one.day)) },
                None => (say(&one.day)),
            }
            " " span.sub { (say(&one.month)) " in " (DAYS) " days" }
        }
    }
}

fn number(number: u64) -> String {
    parts::count(i64::try_from(number).unwrap_or(i64::MAX))
}
