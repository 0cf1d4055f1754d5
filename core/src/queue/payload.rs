//! Reading the events of claimed deliveries. They are read after the claim has committed, so that no lane is locked
//! while payloads travel. An event is read once, however many deliveries it has, and never more bytes at once than the
//! caller has room for.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{Result, database::bounded, event::trace_context::TraceContext};

/// An event in the form in which workers deliver it.
#[derive(Clone, Debug)]
pub struct ClaimedEvent {
    /// The tenant whose event it is.
    pub tenant_id: String,
    /// The type by which subscriptions chose the event.
    pub event_type: String,
    /// The media type of its payload.
    pub content_type: String,
    /// How its payload was packed before it was posted; `None` where it was not.
    pub content_encoding: Option<String>,
    /// The payload, byte for byte as it was accepted.
    pub payload: Bytes,
    /// When the event was accepted, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// When the event was to be delivered; `None` means at once.
    pub deliver_at: Option<DateTime<Utc>>,
    /// When the event expires, by this process's steady clock; in the past where it has expired already.
    pub expires_at: Option<Instant>,
    /// The trace to which the event belongs, if it belongs to one.
    pub trace: Option<TraceContext>,
}

/// The result of reading one event.
#[derive(Clone, Debug)]
pub enum Read {
    /// The event with its payload.
    Event(ClaimedEvent),
    /// The payload did not fit into the remaining bytes; it has this many.
    TooLarge(usize),
}

/// Reads events by their ids, in this order, while their payloads have at most `bytes_max` bytes in all. The first that
/// does not fit and all after it are returned as too large. An event that does not exist any more is absent from the
/// result.
pub async fn read(pool: &PgPool, ids: &[Uuid], bytes_max: usize) -> Result<HashMap<Uuid, Read>> {
    let rows = sqlx::query!(
        r#"SELECT e.id AS "id!", e.tenant_id AS "tenant_id!", e.event_type AS "event_type!",
                  e.content_type AS "content_type!", e.content_encoding, e.deliver_at,
                  CASE WHEN e.bytes_so_far <= $2 THEN e.payload END AS payload, e.bytes AS "bytes!",
                  e.created_at AS "created_at!", e.traceparent, e.tracestate,
                  (extract(epoch FROM e.expires_at - clock_timestamp()) * 1000)::bigint AS expires_in_ms
             FROM (SELECT x.*, length(x.payload) AS bytes,
                          sum(length(x.payload)) OVER (ORDER BY i.place) AS bytes_so_far
                     FROM unnest($1::uuid[]) WITH ORDINALITY AS i (id, place)
                    CROSS JOIN LATERAL (SELECT * FROM events y WHERE y.id = i.id AND y.id >= $3 AND y.id <= $4
                                        OFFSET 0) x) e
            LIMIT 100000"#,
        ids,
        i64::try_from(bytes_max).unwrap_or(i64::MAX),
        // Bounds of the ids let the partitions that cannot hold these events be left out before any is opened.
        ids.iter().min(),
        ids.iter().max(),
    );
    let asked_at = Instant::now();
    let rows = bounded!(pool, rows.fetch_all)?;
    let read = rows.into_iter().map(|row| {
        let read = match row.payload {
            Some(payload) => Read::Event(ClaimedEvent {
                tenant_id: row.tenant_id,
                event_type: row.event_type,
                content_type: row.content_type,
                content_encoding: row.content_encoding,
                payload: payload.into(),
                created_at: row.created_at,
                deliver_at: row.deliver_at,
                expires_at: row.expires_in_ms.map(|ms| asked_at + Duration::from_millis(ms.max(0).unsigned_abs())),
                trace: TraceContext::from_stored(row.traceparent, row.tracestate),
            }),
            None => Read::TooLarge(usize::try_from(row.bytes).unwrap_or(0)),
        };
        (row.id, read)
    });
    Ok(read.collect())
}
