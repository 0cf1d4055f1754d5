//! `POST /subscriptions/{id}/test`: a sample event for one subscription.

use chrono::Utc;
use poem_openapi::{ApiResponse, Object, OpenApi, param::Path, payload::Json};
use postrider_core::{
    accept::sample::Sample,
    delivery::{self, Delivery},
    id::SubscriptionId,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    access::auth::{Key, Manage},
    app::{App, Tag},
    deliveries::view::{DeliveryView, view},
    serve::{
        body::{Brings, Input, JsonBody},
        problem::ApiError,
    },
};

/// The route of samples.
pub struct SamplesApi(pub App);

/// What is sent. No body at all means the same as `{}`.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct SampleInput {
    /// The type of the event, such as `order.created`. Where absent, the first one that the subscription names, where
    /// it names whole types only; otherwise `postrider.sample`.
    event_type: Option<String>,
    /// The payload, any JSON; one that says what it is where absent.
    payload: Option<Value>,
}

impl Input for SampleInput {
    const BRINGS: Brings = Brings::Payload;
    const MAY_BE_EMPTY: bool = true;
}

/// The answer to a sample.
#[derive(Debug, ApiResponse)]
pub enum SampleResponse {
    /// It is stored, and on its way.
    #[oai(status = 202)]
    Accepted(Json<DeliveryView>),
}

#[OpenApi(tag = "Tag::Subscriptions")]
impl SamplesApi {
    /// Send a sample
    ///
    /// Sends an event to this subscription now, whatever its patterns and filters say, and answers the delivery: see
    /// what came of it with `GET /deliveries/{id}/attempts`. It is delivered, retried and logged like any other; its
    /// event has the metadata `postrider_sample:true`. While the subscription is paused it waits; 409 where it is
    /// disabled.
    #[oai(path = "/subscriptions/:id/test", method = "post", operation_id = "test_subscription")]
    async fn send(
        &self,
        key: Key<Manage>,
        id: Path<String>,
        body: JsonBody<SampleInput>,
    ) -> Result<SampleResponse, ApiError> {
        let id: SubscriptionId = key.find(&self.0.pool, &id.0).await?;
        let SampleInput { event_type, payload } = body.value;
        let sample = Sample { event_type, payload: payload.map(|payload| payload.to_string().into()) };
        Ok(SampleResponse::Accepted(Json(view(&self.0.send_sample(id, sample).await?))))
    }
}

impl App {
    /// Sends a sample to a subscription that the caller reaches; returns its delivery.
    pub(crate) async fn send_sample(&self, id: SubscriptionId, sample: Sample) -> Result<Delivery, ApiError> {
        let subscription = self.subscriptions.get(id).await?;
        let delivery = self.acceptor.sample(&subscription, sample, Utc::now()).await?;
        Ok(delivery::get(&self.pool, delivery).await?)
    }
}
