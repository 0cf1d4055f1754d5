//! The search box: an id of any kind leads to its page, and an event type to its deliveries.

use postrider_core::{
    event::event_type::EventType,
    id::{DeliveryId, EmitterId, EventId, JobId, KeyId, SubscriptionId},
};

use crate::{
    serve::problem::ApiError,
    ui::{
        fields::query,
        page::{Next, Note, Visit},
    },
};

/// Leads to what the text in the box names.
pub(crate) fn find(visit: &Visit) -> Result<Next, ApiError> {
    let text = visit.query.get("q").unwrap_or_default();
    let place = |path: String| Ok(Next::Go(path, Note::Done(String::new())));
    if text.is_empty() {
        return place(String::new());
    }
    if text.parse::<DeliveryId>().is_ok() {
        return place(format!("deliveries/{text}"));
    }
    if text.parse::<SubscriptionId>().is_ok() {
        return place(format!("subscriptions/{text}"));
    }
    if text.parse::<EventId>().is_ok() {
        return place(format!("events/{text}"));
    }
    if text.parse::<JobId>().is_ok() {
        return place(format!("jobs/{text}"));
    }
    if text.parse::<EmitterId>().is_ok() {
        return place("emitters".to_owned());
    }
    if text.parse::<KeyId>().is_ok() && visit.may_administer() {
        return place(format!("audit{}", query([("target_id", text)])));
    }
    if text.parse::<EventType>().is_ok() {
        return place(format!("deliveries{}", query([("event_type", text)])));
    }
    Err(ApiError::bad_request("this is neither an id (dlv_…, sub_…, evt_…, job_…) nor an event type"))
}
