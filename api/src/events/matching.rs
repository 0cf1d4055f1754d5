//! Whether a subscription, as it is now, wants an event: every rule, and what the event has there.

use postrider_core::{
    event::{
        Event, Payload,
        audience::{Facts, explain},
        event_type::EventType,
        filter::Check,
    },
    id::SubscriptionId,
    subscription::{State, Subscription},
};

use crate::serve::problem::ApiError;

/// Every rule of the subscription, the ones that all subscriptions have first.
///
/// # Errors
/// Internal, where the stored type of the event is not one.
pub(crate) fn checks(event: &Event, payload: &Payload, subscription: &Subscription) -> Result<Vec<Check>, ApiError> {
    let event_type = event.event_type.parse::<EventType>().map_err(postrider_core::Error::internal)?;
    let metadata = event.metadata.clone().map(|metadata| metadata.0).unwrap_or_default();
    let facts = Facts::new(&event_type, &metadata, &payload.bytes, payload.content_encoding.as_ref());
    let posted_to = event.subscription_id.map(SubscriptionId);
    let check = |rule: &str, holds, found: String| Check { rule: rule.to_owned(), holds, found: Some(found) };
    let mut checks = vec![
        check("tenant_id is the event's", subscription.tenant_id == event.tenant_id, event.tenant_id.clone()),
        check(
            "the event was posted to this subscription, or to all",
            !event.is_inline && posted_to.is_none_or(|posted_to| posted_to == subscription.id),
            match posted_to {
                Some(posted_to) => posted_to.to_string(),
                None if event.is_inline => "to a URL".to_owned(),
                None => "to all".to_owned(),
            },
        ),
        check("state is not disabled", subscription.state != State::Disabled, subscription.state.to_string()),
    ];
    checks.extend(explain(&subscription.settings.event_types, &subscription.settings.filters, &facts));
    Ok(checks)
}
