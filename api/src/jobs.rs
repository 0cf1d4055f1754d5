//! `/jobs`: something is done with all deliveries that match a filter.

pub mod body;

use chrono::Utc;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Header, Path, Query},
    payload::Json,
    types::ToJSON,
};
use postrider_core::{
    delivery::job::{self, Job, NewJob, count},
    event::idempotency::{Creation, IdempotentRequest},
    id::JobId,
};

use crate::{
    access::{
        Access,
        auth::{Key, Manage, Read},
    },
    app::{App, Tag},
    jobs::body::{JobCount, JobInput, JobPatch, JobState, JobView, view},
    serve::{
        body::{JsonBody, MergePatch, from_value},
        idempotency::stored_answer,
        list::{List, Wanted},
        problem::ApiError,
    },
};

/// The routes of `/jobs`.
pub struct JobsApi(pub App);

/// The answer to a request for a job.
#[derive(Debug, ApiResponse)]
pub enum Begun {
    /// The job is on disk, and begins within a second.
    #[oai(status = 202)]
    Accepted(
        Json<JobView>,
        /// The path of the job, such as `/jobs/job_0198c0de2f3a7b1c9d4e5f60718293a4`.
        #[oai(header = "Location")]
        String,
    ),
}

#[OpenApi(tag = "Tag::Jobs")]
impl JobsApi {
    /// Do something with all deliveries that match
    ///
    /// Workers go through the deliveries in short steps, the oldest first and at a rate. A job survives every crash and
    /// acts on no delivery twice.
    #[oai(path = "/jobs", method = "post", operation_id = "create_job")]
    async fn create(
        &self,
        key: Key<Manage>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        body: JsonBody<JobInput>,
    ) -> Result<Begun, ApiError> {
        let new = body.value.parse(&key, &self.0.pool, Utc::now()).await?;
        let tenant = new.filter.tenant_id.as_deref().unwrap_or_default();
        let idempotent = self.0.key_ttl.request(idempotency_key.0.as_deref(), tenant, "POST /jobs", &body.bytes)?;
        begin(&self.0, &key, &new, idempotent.as_ref()).await
    }

    /// Count what a job would be about
    ///
    /// Takes what `POST /jobs` takes, and changes nothing. A count is bounded: it says whether it is exact.
    #[oai(path = "/jobs/count", method = "post", operation_id = "count_job")]
    async fn count(&self, key: Key<Read>, body: JsonBody<JobInput>) -> Result<Json<JobCount>, ApiError> {
        let new = body.value.parse(&key, &self.0.pool, Utc::now()).await?;
        let counted = count::count(&self.0.pool, new.action, &new.filter).await?;
        let is_exact = counted.completeness == count::Completeness::Exact;
        Ok(Json(JobCount { count: counted.count as u64, is_exact }))
    }

    /// List jobs
    ///
    /// The newest first.
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
    async fn list(
        &self,
        key: Key<Read>,
        tenant_id: Query<Option<String>>,
        /// Only jobs whose filter names this subscription, such as `sub_0198c0de2f3a7b1c9d4e5f60718293a4`.
        subscription_id: Query<Option<String>>,
        /// Only jobs that stand so, such as `running`.
        state: Query<Option<JobState>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<JobView>>, ApiError> {
        let tenant = key.lists(tenant_id.0.as_deref())?;
        let subscription = key.find_named(&self.0.pool, "subscription_id", subscription_id.0.as_deref()).await?;
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: JobId| id.0)?;
        let state = state.0.map(Into::into);
        let found = job::list(&self.0.pool, tenant.as_deref(), subscription, state, wanted.page()).await?;
        Ok(Json(wanted.list(found, |one| one.id, view)))
    }

    /// Get a job
    #[oai(path = "/jobs/:id", method = "get", operation_id = "get_job")]
    async fn get(&self, key: Key<Read>, id: Path<String>) -> Result<Json<JobView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&job::get(&self.0.pool, id).await?)))
    }

    /// Change a job
    ///
    /// The rate of a running job changes with its next step, which comes within a second or so. The body is a JSON
    /// merge patch (RFC 7396): what is absent stays as it is.
    #[oai(path = "/jobs/:id", method = "patch", operation_id = "change_job")]
    async fn change(
        &self,
        key: Key<Manage>,
        id: Path<String>,
        patch: MergePatch<JobPatch>,
    ) -> Result<Json<JobView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        patch.check_fields::<JobPatch>()?;
        let rate = from_value::<JobPatch>(patch.0.clone())?.rate()?;
        let job = if patch.says("rate_per_second").is_some() {
            job::set_rate(&self.0.pool, key.actor(), id, rate).await?
        } else {
            job::get(&self.0.pool, id).await?
        };
        Ok(Json(view(&job)))
    }

    /// Stop a job
    ///
    /// Nothing more is done. Deliveries that a replay has made and that are still waiting are canceled; what a retry, a
    /// cancellation, a resolution or a purge has done stays done.
    #[oai(path = "/jobs/:id/cancel", method = "post", operation_id = "cancel_job")]
    async fn cancel(&self, key: Key<Manage>, id: Path<String>) -> Result<Json<JobView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&job::cancel(&self.0.pool, key.actor(), id).await?)))
    }
}

/// Begins a job, and answers it.
pub(crate) async fn begin(
    app: &App,
    access: &Access,
    new: &NewJob,
    idempotent: Option<&IdempotentRequest>,
) -> Result<Begun, ApiError> {
    let answer = |job: &Job| view(job).to_json_string().into_bytes();
    let made = job::create(&app.pool, &app.keyring, access.actor(), new, idempotent, answer).await?;
    let view = match made {
        Creation::Now(job) => view(&job),
        Creation::Before(answer) => stored_answer(&answer)?,
    };
    let location = format!("/jobs/{}", view.id);
    Ok(Begun::Accepted(Json(view), location))
}
