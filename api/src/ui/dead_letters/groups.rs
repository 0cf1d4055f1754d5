//! Dead letters grouped by receiver and cause, each group with what can be decided about all of it.

use std::{collections::HashMap, sync::Arc};

use maud::{Markup, html};
use postrider_core::{
    delivery::{
        dead_letter::Filter,
        dead_letter_groups::{self, GROUPED_MAX, Group, Groups},
        job::{Action, filter::NOT_ATTEMPTED},
    },
    id::SubscriptionId,
    subscription::Subscription,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        dead_letters::for_job,
        deliveries::name,
        fields::Fields,
        jobs::new::link,
        page::Visit,
        parts::{self, Tone},
    },
};

/// The word in the log of attempts for an answer other than 2xx.
const HTTP_STATUS: &str = "http_status";

/// The groups, or what stands where there are none.
pub(super) async fn show(visit: &Visit, filter: &Filter) -> Markup {
    match dead_letter_groups::groups(visit.pool(), filter).await.map_err(ApiError::from) {
        Ok(found) if found.groups.is_empty() => parts::empty(
            visit,
            "inbox",
            "Nothing to decide",
            &html! {
                p { "No delivery waits here. What runs out of attempts comes to this list." }
            },
        ),
        Ok(found) => table(visit, &found).await,
        Err(error) => parts::trouble(visit, &error),
    }
}

async fn table(visit: &Visit, found: &Groups) -> Markup {
    let mut known: HashMap<SubscriptionId, Arc<Subscription>> = HashMap::new();
    for id in found.groups.iter().filter_map(|group| group.subscription) {
        if !known.contains_key(&id)
            && let Ok(Some(subscription)) = visit.app.cache.get(id).await
        {
            known.insert(id, subscription);
        }
    }
    let is_bounded = found.examined >= GROUPED_MAX;
    html! {
        table.cards {
            caption.unseen { "Dead letters by receiver and cause" }
            thead {
                tr {
                    th scope="col" { "Receiver" }
                    th scope="col" { "Cause" }
                    th.number scope="col" { "Count" }
                    th scope="col" { "First" }
                    th scope="col" { "Last" }
                    @if visit.may_manage() { th scope="col" { span.unseen { "What can be done" } } }
                }
            }
            tbody {
                @for group in &found.groups {
                    (row(visit, group, group.subscription.and_then(|id| known.get(&id)).map(|one| &**one), is_bounded))
                }
            }
        }
        @if is_bounded || found.is_more {
            div.looked {
                p {
                    @if is_bounded { "The newest " (parts::count(GROUPED_MAX)) " dead letters are grouped. " }
                    @if found.is_more { "The largest " (found.groups.len()) " groups are shown. " }
                    "What is done with a group is done with all of it."
                }
            }
        }
    }
}

fn row(visit: &Visit, group: &Group, subscription: Option<&Subscription>, is_bounded: bool) -> Markup {
    let kind = group.error_kind.as_deref().unwrap_or(NOT_ATTEMPTED);
    let code = group.status_code.map(|code| code.to_string());
    let list = visit
        .query
        .with("view", Some("list"))
        .with("subscription_id", group.subscription.map(|id| id.to_string()).as_deref())
        .with("tenant_id", tenant(visit, group))
        .with("error_kind", Some(kind))
        .with("status_code", code.as_deref());
    let fields = fields_of(visit, group, kind, code.as_deref());
    let fields: Vec<_> = fields.pairs().collect();
    html! {
        tr {
            th scope="row" {
                a.open href=(visit.to(format!("dead-letters{}", list.query()))) {
                    @match (subscription, group.subscription) {
                        (Some(subscription), _) => (name(subscription)),
                        (None, Some(id)) => { (parts::short(id)) " (deleted)" },
                        (None, None) => "Inline deliveries",
                    }
                }
                @if visit.access.tenant().is_none() {
                    span.sub.clip { (group.tenant_id.as_deref().unwrap_or("(removed)")) }
                }
            }
            td data-label="Cause" {
                @match &code {
                    Some(code) => (parts::badge(visit, Tone::Bad, "mail-x", &format!("Answered {code}"))),
                    None => (parts::badge(visit, Tone::Bad, "mail-x", cause(kind))),
                }
                a.sub.mono href=(visit.to(format!("deliveries/{}", group.sample))) { (parts::short(group.sample)) }
            }
            td.number data-label="Count" {
                @if is_bounded { span.sub { "at least" } } (parts::count(group.count))
            }
            td data-label="First" { (parts::time(visit, group.first_at)) }
            td data-label="Last" { (parts::time(visit, group.last_at)) }
            @if visit.may_manage() {
                td.do {
                    (link(visit, Action::Retry, &fields, "Retry"))
                    (link(visit, Action::Resolve, &fields, "Resolve"))
                    (link(visit, Action::Purge, &fields, "Purge"))
                }
            }
        }
    }
}

/// The tenant that links to this group name. A subscription says its tenant by itself, and a link that named it besides
/// would choose the tenant for all pages that follow.
fn tenant<'a>(visit: &'a Visit, group: &'a Group) -> Option<&'a str> {
    visit.query.get("tenant_id").or_else(|| group.tenant_id.as_deref().filter(|_| group.subscription.is_none()))
}

/// The filter of a job that is about this group.
fn fields_of(visit: &Visit, group: &Group, kind: &str, code: Option<&str>) -> Fields {
    let subscription = group.subscription.map(|id| id.to_string());
    for_job(&visit.query)
        .with("tenant_id", tenant(visit, group))
        .with("subscription_id", subscription.as_deref())
        .with("inline_only", group.subscription.is_none().then_some("true"))
        .with("error_kinds", Some(kind))
        .with("status_codes", code)
}

/// The cause of a failed attempt, in words.
pub(crate) fn cause(kind: &str) -> &str {
    match kind {
        HTTP_STATUS => "Answered",
        "timeout" => "Timed out",
        "dns" => "Host not found",
        "connect" => "No connection",
        "tls" => "TLS failed",
        "blocked_target" => "Target blocked",
        "protocol" => "Broke off",
        "aborted" => "By the receiver's wish",
        "shutdown" => "Worker stopped",
        "worker_busy" => "Worker busy",
        "payload_gone" => "Event removed",
        "lease_lost" => "Worker lost",
        NOT_ATTEMPTED => "Never attempted",
        other => other,
    }
}
