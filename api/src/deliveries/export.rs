//! A list of deliveries as a file: CSV, or NDJSON with the deliveries as the API shows them. It is read page by page
//! while it is sent, so it takes no more memory than a page. It ends after a number of rows or after a time, and its
//! last line says whether it is whole, and where to go on.

mod room;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, stream};
use poem::{Body, IntoResponse, Response, http::header};
use poem_openapi::{
    ApiResponse, Enum,
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::{ToJSON, Type},
};
use postrider_core::{
    Error,
    access::audit::Actor,
    delivery::{
        Delivery,
        list::{Filter, list},
    },
    id::DeliveryId,
    page::Page,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

pub(crate) use crate::deliveries::export::room::Exports;
use crate::{
    deliveries::{export::room::Place, view::view},
    serve::problem::ApiError,
};

/// Rows of an export, at most.
pub(crate) const ROWS_MAX: usize = 100_000;
/// Minutes that an export may take, however slow its reader is. A reader that then does not even take the last line
/// within a further while does not get it.
pub(crate) const MINUTES_MAX: u64 = 2;
const LAST_LINE_WITHIN: Duration = Duration::from_secs(30);
/// Rows that are read at once.
const PAGE: usize = 500;
/// What CSV shows of a delivery: fields of its JSON.
const COLUMNS: [&str; 18] = [
    "id",
    "event_id",
    "tenant_id",
    "subscription_id",
    "target_url",
    "replay_of",
    "job_id",
    "event_type",
    "status",
    "attempt_count",
    "next_attempt_at",
    "last_status_code",
    "last_error",
    "expires_at",
    "cancel_reason",
    "created_at",
    "finished_at",
    "last_duration_ms",
];

/// How deliveries are written: `csv`, with a head and a line for each, or `ndjson`, a JSON object in each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", rename = "ExportFormat")]
pub enum Format {
    /// Comma-separated values, as RFC 4180 writes them.
    Csv,
    /// Lines of JSON.
    Ndjson,
}

impl Format {
    /// The format of this name; `None` where there is none.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "csv" => Some(Self::Csv),
            "ndjson" => Some(Self::Ndjson),
            _ => None,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Csv => "deliveries.csv",
            Self::Ndjson => "deliveries.ndjson",
        }
    }

    /// What stands before the first delivery.
    fn head(self) -> String {
        match self {
            Self::Csv => format!("{}\r\n", COLUMNS.join(",")),
            Self::Ndjson => String::new(),
        }
    }

    fn line(self, delivery: &Delivery) -> String {
        let shown = view(delivery).to_json().unwrap_or_default();
        match self {
            Self::Csv => {
                let cells = COLUMNS.map(|column| cell(&shown[column]));
                format!("{}\r\n", cells.join(","))
            }
            Self::Ndjson => format!("{shown}\n"),
        }
    }

    /// The last line.
    fn end(self, end: End, rows: usize, before: Option<Uuid>) -> String {
        let cursor = before.map(|id| DeliveryId(id).to_string()).filter(|_| end != End::Whole);
        match (self, cursor) {
            (Self::Csv, None) => format!("# rows: {rows}, these are all\r\n"),
            (Self::Csv, Some(cursor)) => {
                format!("# rows: {rows}, stopped by {}; go on with cursor={cursor}\r\n", end.word())
            }
            (Self::Ndjson, cursor) => {
                let mut said = json!({"rows": rows, "complete": end == End::Whole});
                if let Some(cursor) = cursor {
                    said["stopped_by"] = end.word().into();
                    said["next_cursor"] = cursor.into();
                }
                format!("{}\n", json!({"export": said}))
            }
        }
    }
}

/// Why an export ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There is no further delivery.
    Whole,
    /// It has all the rows that it may have.
    Rows,
    /// Its time is over.
    Time,
    /// The rest could not be read.
    Trouble,
}

impl End {
    fn word(self) -> &'static str {
        match self {
            Self::Whole => "nothing",
            Self::Rows => "its number of rows",
            Self::Time => "its time",
            Self::Trouble => "the database",
        }
    }
}

/// A value as a cell of CSV. What a spreadsheet would take for a formula gets an apostrophe, because some of the texts
/// were chosen by strangers.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mark = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{mark}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{mark}{text}")
    }
}

/// An export under way.
struct Export {
    pool: PgPool,
    filter: Filter,
    format: Format,
    /// The delivery behind which the next page begins.
    before: Option<Uuid>,
    rows: usize,
    began: Instant,
    _place: Place,
}

impl Export {
    /// The lines of the next page, and the last line where the export ends with it.
    async fn lines(&mut self) -> Result<(String, Option<End>), Error> {
        let limit = PAGE.min(ROWS_MAX - self.rows);
        let page = Page { before: self.before, limit: i64::try_from(limit).unwrap_or(i64::MAX) };
        let found = list(&self.pool, &self.filter, page).await?;
        let mut lines: String = found.items.iter().map(|delivery| self.format.line(delivery)).collect();
        self.rows += found.items.len();
        let last = found.items.last().filter(|_| found.items.len() >= limit).map(|delivery| delivery.id.0);
        let next = last.or(found.examined_to);
        self.before = next.or(self.before);
        let end = match next {
            None => Some(End::Whole),
            Some(_) if self.rows >= ROWS_MAX => Some(End::Rows),
            Some(_) if self.began.elapsed() >= time_max() => Some(End::Time),
            Some(_) => None,
        };
        if let Some(end) = end {
            lines.push_str(&self.end(end));
        }
        Ok((lines, end))
    }

    fn end(&self, end: End) -> String {
        self.format.end(end, self.rows, self.before)
    }
}

fn time_max() -> Duration {
    Duration::from_secs(60 * MINUTES_MAX)
}

/// What a stream yields, taken from it by a task of its own. That task ends after the limit, so a reader that stops
/// reading does not keep alive what the stream holds.
fn within<T: Send + 'static>(
    limit: Duration,
    items: impl Stream<Item = T> + Send + 'static,
) -> impl Stream<Item = T> + Send {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(tokio::time::timeout(limit, async move {
        let mut items = Box::pin(items);
        while let Some(item) = items.next().await {
            if sender.send(item).await.is_err() {
                break;
            }
        }
    }));
    stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) })
}

/// A file with deliveries.
pub struct Exported(Format, Body);

/// Begins an export of all deliveries that pass the filter, behind the given one. The first page is read at once, so
/// what is wrong is said before anything is sent.
///
/// # Errors
/// When an export of the same key or too many others are under way, or the first page cannot be read.
pub(crate) async fn begin(
    (exports, actor): (&Exports, Actor),
    pool: &PgPool,
    filter: Filter,
    format: Format,
    before: Option<Uuid>,
) -> Result<Exported, ApiError> {
    let place = exports.take(actor)?;
    let mut export =
        Export { pool: pool.clone(), filter, format, before, rows: 0, began: Instant::now(), _place: place };
    let (lines, end) = export.lines().await?;
    let first = stream::once(future::ready(format.head() + &lines));
    let rest = stream::unfold(Some(export).filter(|_| end.is_none()), |export| async {
        let mut export = export?;
        match export.lines().await {
            Ok((lines, None)) => Some((lines, Some(export))),
            Ok((lines, Some(_))) => Some((lines, None)),
            Err(error) => {
                tracing::warn!(%error, rows = export.rows, "an export of deliveries ends too soon");
                Some((export.end(End::Trouble), None))
            }
        }
    });
    let lines = first.chain(rest).filter(|lines| future::ready(!lines.is_empty()));
    let chunks = within(time_max() + LAST_LINE_WITHIN, lines).map(|lines| Ok::<_, std::io::Error>(Bytes::from(lines)));
    Ok(Exported(format, Body::from_bytes_stream(chunks)))
}

impl IntoResponse for Exported {
    fn into_response(self) -> Response {
        let Self(format, body) = self;
        let name = format!("attachment; filename=\"{}\"", format.file());
        let response = Response::builder().content_type(format.content_type());
        response.header(header::CONTENT_DISPOSITION, name).body(body)
    }
}

impl ApiResponse for Exported {
    fn meta() -> MetaResponses {
        let text = |content_type| MetaMediaType { content_type, schema: String::schema_ref() };
        let response = MetaResponse {
            description: "The deliveries, the newest first, and a last line that says whether these are all.",
            status: Some(200),
            status_range: None,
            content: vec![text("text/csv"), text("application/x-ndjson")],
            headers: Vec::new(),
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(_registry: &mut Registry) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_stops_reading_holds_nothing() {
        let held = Arc::new(());
        let also_held = Arc::clone(&held);
        let mut unread = Box::pin(within(Duration::from_millis(50), stream::repeat_with(move || also_held.clone())));
        drop(unread.next().await);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(Arc::strong_count(&held), 2, "the one that is on its way to the reader is left");
    }

    #[test]
    fn cells_are_quoted_and_are_no_formulas() {
        for (value, expected) in [
            (json!(null), ""),
            (json!(503), "503"),
            (json!("order.paid"), "order.paid"),
            (json!("a, b"), "\"a, b\""),
            (json!("say \"no\"\n"), "\"say \"\"no\"\"\n\""),
            (json!("=1+1"), "'=1+1"),
            (json!("@a,b"), "\"'@a,b\""),
        ] {
            assert_eq!(cell(&value), expected);
        }
    }

    #[test]
    fn the_last_line_says_whether_these_are_all() {
        let place = Some(Uuid::from_u128(7));
        let id = DeliveryId(Uuid::from_u128(7));
        assert_eq!(Format::Csv.end(End::Whole, 3, place), "# rows: 3, these are all\r\n");
        let csv = format!("# rows: 3, stopped by its time; go on with cursor={id}\r\n");
        assert_eq!(Format::Csv.end(End::Time, 3, place), csv);
        assert_eq!(Format::Ndjson.end(End::Whole, 0, None), "{\"export\":{\"complete\":true,\"rows\":0}}\n");
        let said: Value = serde_json::from_str(&Format::Ndjson.end(End::Rows, 9, place)).expect("JSON");
        assert_eq!(
            (&said["export"]["complete"], &said["export"]["next_cursor"]),
            (&json!(false), &json!(id.to_string()))
        );
    }
}
