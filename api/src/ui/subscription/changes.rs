//! What was changed of a subscription, by whom, with what was there before and after: its part of the audit log, for
//! those who may see it.

use maud::html;
use postrider_core::{
    access::{
        api_key::Scope,
        audit::{self, Filter},
    },
    id::AuditId,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        audit::table,
        page::{Page, Visit},
        parts,
        rows::{Rows, window},
        subscription::{framed, read},
    },
};

/// The page.
pub(crate) async fn page(visit: &Visit, id: &str) -> Result<Page, ApiError> {
    visit.require(Scope::Admin)?;
    let subscription = read(visit, id).await?;
    let filter = Filter { target_id: Some(subscription.id.to_string()), ..Filter::default() };
    let window = window(visit, |id: AuditId| id.0)?;
    let list = match audit::list(visit.pool(), &filter, window).await {
        Ok(found) => {
            let rows = Rows::whole(found, |entry| entry.id);
            html! {
                @if rows.is_empty() {
                    (parts::empty(visit, "scroll-text", "No entries", &html! {
                        p { "Entries are kept for a year, and nothing was changed within it." }
                    }))
                } @else {
                    (table(visit, &rows.items))
                    (rows.foot(visit, AuditId::PREFIX, "entries"))
                }
            }
        }
        Err(error) => parts::trouble(visit, &error.into()),
    };
    Ok(framed(visit, &subscription, "/audit", &html! { section.panel #list { (list) } }))
}
