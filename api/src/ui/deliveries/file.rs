//! The list of deliveries as a file, and the menu that offers it.

use maud::{Markup, html};
use poem::{IntoResponse, Response};
use postrider_core::id::DeliveryId;

use crate::{
    deliveries::export::{self, Format, MINUTES_MAX, ROWS_MAX},
    serve::problem::ApiError,
    ui::{deliveries::filters::filter, fields::CURSOR, page::Visit, parts, rows::window},
};

/// The menu. What it says of bounds is what the last line of a file says, too.
pub(super) fn menu(visit: &Visit) -> Markup {
    let link =
        |format: &str| visit.to(format!("deliveries/export{}", visit.query.with("format", Some(format)).query()));
    let rows = parts::count(i64::try_from(ROWS_MAX).unwrap_or(i64::MAX));
    html! {
        details.sure {
            summary.button { (visit.icon("download")) "Export…" }
            div.card {
                p {
                    "All that match, the newest first: at most " (rows) " deliveries, and as many as go over the line "
                    "in " (MINUTES_MAX) " minutes. The last line says whether these are all."
                }
                @if visit.query.has(CURSOR) { p { "This file begins where this page does." } }
                a.button href=(link("csv")) download { "CSV" }
                a.button href=(link("ndjson")) download { "NDJSON" }
            }
        }
    }
}

/// The file.
pub(crate) async fn answer(visit: &Visit) -> Result<Response, ApiError> {
    let name = visit.query.get("format").unwrap_or("csv");
    let format = Format::named(name).ok_or_else(|| ApiError::invalid("format", "must be csv or ndjson"))?;
    let filter = filter(visit, None).await?;
    let before = window(visit, |id: DeliveryId| id.0)?.before;
    Ok(export::begin((&visit.app.exports, visit.access.actor()), visit.pool(), filter, format, before)
        .await?
        .into_response())
}
