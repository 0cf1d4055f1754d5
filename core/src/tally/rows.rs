//! The arguments of `add_stats()`: rows of composite types, one array of each. The types are defined in
//! `migrations/0004_statistics.sql`; the fields of these structs have the same order.

use chrono::{DateTime, Utc};
use sqlx::Encode;
use uuid::Uuid;

use crate::database::composite;

/// A row of the composite type `stats_sum`.
#[derive(Encode)]
pub(crate) struct SumRow<'a> {
    pub(crate) tenant_id: &'a str,
    pub(crate) subscription_id: Uuid,
    pub(crate) minute: DateTime<Utc>,
    pub(crate) outcomes: &'a [i32],
    pub(crate) durations: &'a [i32],
    pub(crate) latencies: &'a [i32],
    pub(crate) waits: &'a [i32],
    pub(crate) bytes: i64,
}
composite!(SumRow, "stats_sum");

/// A row of the composite type `accepted_sum`.
#[derive(Encode)]
pub(crate) struct AcceptedRow<'a> {
    pub(crate) tenant_id: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) minute: DateTime<Utc>,
    pub(crate) events: i32,
    pub(crate) bytes: i64,
}
composite!(AcceptedRow, "accepted_sum");

/// A row of the composite type `cause_sum`.
#[derive(Encode)]
pub(crate) struct CauseRow<'a> {
    pub(crate) tenant_id: &'a str,
    pub(crate) subscription_id: Uuid,
    pub(crate) moment: DateTime<Utc>,
    pub(crate) cause: &'static str,
    pub(crate) count: i32,
    pub(crate) first_at: DateTime<Utc>,
    pub(crate) last_at: DateTime<Utc>,
    pub(crate) delivery_id: Uuid,
    pub(crate) status_code: Option<i16>,
}
composite!(CauseRow, "cause_sum");
