//! The search box: an id of any kind leads to its page, an event type to its deliveries, and words such as
//! `status:dead_letter since:1h` to the deliveries that they mean.

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

/// Words of a search, and the filters of the list of deliveries that they stand for.
const WORDS: [(&str, &str); 10] = [
    ("status", "status"),
    ("type", "event_type"),
    ("sub", "subscription_id"),
    ("event", "event_id"),
    ("job", "job_id"),
    ("tenant", "tenant_id"),
    ("slower", "slower_than_ms"),
    ("attempts", "min_attempts"),
    ("since", "since"),
    ("until", "until"),
];
/// What stands before the key of an entry in the metadata.
const METADATA: &str = "meta.";

/// The filters that a text of words such as `type:order.paid meta.region:eu` asks for; `None` where it is no such text.
fn filters(text: &str) -> Option<Vec<(&str, &str)>> {
    text.split_whitespace().map(filter).collect()
}

fn filter(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once(':').filter(|(_, value)| !value.is_empty())?;
    if let Some(entry) = word.strip_prefix(METADATA) {
        return Some(("metadata", entry));
    }
    let (_, field) = WORDS.iter().find(|(known, _)| *known == name)?;
    Some((*field, value))
}

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
    if let Some(filters) = filters(text) {
        return place(format!("deliveries{}", query(filters)));
    }
    if text.parse::<EventType>().is_ok() {
        return place(format!("deliveries{}", query([("event_type", text)])));
    }
    Err(ApiError::bad_request(
        "this is neither an id (dlv_…, sub_…, evt_…, job_…) nor an event type nor words such as status:dead_letter \
         since:1h",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_search() {
        let asked = filters("type:order.paid  status:dead_letter since:1h meta.region:eu attempts:3").map(query);
        let expected = "?event_type=order.paid&status=dead_letter&since=1h&metadata=region%3Aeu&min_attempts=3";
        assert_eq!(asked.as_deref(), Some(expected));
        for other in ["order.paid", "user:created", "status:", "status:pending order.paid", "since 1h"] {
            assert_eq!(filters(other), None, "{other}");
        }
    }
}
