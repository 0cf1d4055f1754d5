//! What was changed in the time of a chart, for those who may see it: changes of settings, and starts of processes that
//! still run. The chart marks them, so one sees whether the numbers changed with them.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use postrider_core::{
    access::audit::{self, Filter},
    id::SubscriptionId,
    page::Span,
    process::heartbeat,
};

use crate::ui::{
    page::Visit,
    parts::{self, time},
    rows,
};

/// Changes that are marked, at most: the newest ones.
const CHANGES_MAX: i64 = 40;

/// Something that was changed.
pub(super) struct Mark {
    pub(super) at: DateTime<Utc>,
    pub(super) what: String,
    /// The page of what was changed, where it has one.
    link: Option<String>,
}

/// What was changed within the span: anything that the visitor reaches, or one subscription. A chart without marks is
/// better than none, so what cannot be read is left out.
pub(super) async fn marks(visit: &Visit, subscription: Option<SubscriptionId>, span: Span) -> Vec<Mark> {
    if !visit.may_administer() {
        return Vec::new();
    }
    let Ok(tenant_id) = visit.lists() else { return Vec::new() };
    let is_whole = tenant_id.is_none() && subscription.is_none();
    let tenant_id = tenant_id.filter(|_| subscription.is_none());
    let target_id = subscription.map(|id| id.to_string());
    let filter = Filter { tenant_id, target_id, span, ..Filter::default() };
    let processes = async { if is_whole { heartbeat::list(visit.pool()).await } else { Ok(Vec::new()) } };
    let (changes, processes) = tokio::join!(audit::list(visit.pool(), &filter, rows::first(CHANGES_MAX)), processes);
    let changes = changes.unwrap_or_default().into_iter().map(|entry| Mark {
        at: entry.created_at,
        what: format!("{} {}", entry.action.replace(['.', '_'], " "), parts::short(&entry.target_id)),
        link: entry.target_id.starts_with(SubscriptionId::PREFIX).then(|| format!("subscriptions/{}", entry.target_id)),
    });
    let within =
        |at: DateTime<Utc>| span.since.is_none_or(|since| at >= since) && span.until.is_none_or(|end| at < end);
    let starts = processes.unwrap_or_default().into_iter().filter(|process| within(process.started_at));
    let starts = starts.map(|process| Mark {
        at: process.started_at,
        what: format!("{} {} started on {}", process.kind, process.version, process.host),
        link: Some("lanes".to_owned()),
    });
    let mut marks: Vec<_> = changes.chain(starts).collect();
    marks.sort_by_key(|mark| std::cmp::Reverse(mark.at));
    marks
}

/// The marks as a list, the newest first.
pub(super) fn list(visit: &Visit, marks: &[Mark]) -> Markup {
    html! {
        @if !marks.is_empty() {
            details {
                summary { "Show what was changed (" (marks.len()) ")" }
                ul.changes {
                    @for mark in marks {
                        li {
                            (time(visit, mark.at)) " "
                            @match &mark.link {
                                Some(path) => a href=(visit.to(path)) { (mark.what) },
                                None => span { (mark.what) },
                            }
                        }
                    }
                }
            }
        }
    }
}
