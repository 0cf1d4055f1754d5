//! `/processes`: the processes that are running, and those that were a short while ago.

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object, OpenApi, payload::Json};
use postrider_core::process::heartbeat::{self, Process, ProcessKind, ProcessState};

use crate::{
    access::auth::{Admin, Key},
    app::{App, Tag},
    serve::problem::ApiError,
};

/// The route of `/processes`.
pub struct ProcessesApi(pub App);

/// What a process does: `api` takes HTTP requests, `worker` makes deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "ProcessKind", rename = "ProcessKind")]
pub enum KindName {
    /// It takes HTTP requests.
    Api,
    /// It makes deliveries.
    Worker,
}

/// Whether a process lives: `gone` is one that has not been seen for 45 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "ProcessState", rename = "ProcessState")]
pub enum ProcessStateName {
    /// It has been seen a short while ago.
    Alive,
    /// It has not been seen for 45 seconds.
    Gone,
}

/// The processes of this Postrider.
#[derive(Debug, Object)]
#[oai(rename = "ProcessList")]
pub struct ProcessesView {
    /// The processes, the last started first, at most 1000.
    data: Vec<ProcessView>,
}

/// A process that is running, or was within the last day.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Process")]
pub struct ProcessView {
    /// The process's id, such as `0198c0de-2f3a-7b1c-9d4e-5f60718293a4`; a new one after each start.
    id: String,
    /// What the process does.
    kind: KindName,
    /// Whether it lives. A process that ended as it should is not listed.
    state: ProcessStateName,
    /// The name of its host, such as `worker-7f9c`.
    host: String,
    /// Its version of Postrider, such as `0.1.0`.
    version: String,
    /// When it was started (RFC 3339).
    started_at: DateTime<Utc>,
    /// When it was last seen (RFC 3339); it shows itself every 10 seconds.
    seen_at: DateTime<Utc>,
    /// Deliveries that a worker holds at this moment, such as 12; absent for an api.
    places_used: Option<u32>,
    /// Deliveries that a worker has room for besides, such as 500; absent for an api.
    places_free: Option<u32>,
    /// Deliveries that a worker has claimed each second of late, such as 118.5; absent for an api.
    claims_per_second: Option<f64>,
    /// The last error that it logged, at most 500 characters; absent where it logged none.
    last_error: Option<String>,
    /// When it logged that error (RFC 3339).
    last_error_at: Option<DateTime<Utc>>,
}

#[OpenApi(tag = "Tag::Health")]
impl ProcessesApi {
    /// List processes
    ///
    /// Every `api` and `worker` that is running, and those that have gone within the last day without saying so. For
    /// keys with the scope `admin` that are bound to no tenant.
    #[oai(path = "/processes", method = "get", operation_id = "list_processes")]
    async fn list(&self, key: Key<Admin>) -> Result<Json<ProcessesView>, ApiError> {
        key.is_of_every_tenant()?;
        let processes = heartbeat::list(&self.0.pool).await?;
        Ok(Json(ProcessesView { data: processes.into_iter().map(view).collect() }))
    }
}

fn view(process: Process) -> ProcessView {
    ProcessView {
        id: process.id.to_string(),
        kind: process.kind.into(),
        state: process.state.into(),
        host: process.host,
        version: process.version,
        started_at: process.started_at,
        seen_at: process.seen_at,
        places_used: process.places_used.map(i32::unsigned_abs),
        places_free: process.places_free.map(i32::unsigned_abs),
        claims_per_second: process.claims_per_second,
        last_error_at: process.last_error.as_ref().map(|last| last.at),
        last_error: process.last_error.map(|last| last.message),
    }
}
