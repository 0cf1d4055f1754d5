//! Trying a subscription: a sample event is sent to its receiver, and the page of its delivery shows what comes of it.
//! A stream of them is an emitter ([`crate::ui::emitters`]).

use maud::{Markup, html};
use postrider_core::{
    accept::sample::{SAMPLE_TYPE_DEFAULT, Sample},
    id::SubscriptionId,
    subscription::{State, Subscription},
};
use serde_json::Value;

use crate::{
    serve::problem::ApiError,
    ui::{
        emitters,
        fields::Fields,
        page::{Next, Page, Visit},
        parts::{nothing, panel},
        subscription::{
            framed, read,
            tester::{self, Tried},
        },
    },
};

/// The page with the form.
pub(crate) async fn page(visit: &Visit, id: &str) -> Result<Page, ApiError> {
    let subscription = read(visit, id).await?;
    Ok(with(visit, &subscription, &Fields::of(Vec::new()), &[], None).await)
}

/// The page after an event was judged.
pub(super) async fn with_tried(visit: &Visit, subscription: &Subscription, tried: &Tried<'_>) -> Page {
    with(visit, subscription, &Fields::of(Vec::new()), &[], Some(tried)).await
}

async fn with(
    visit: &Visit,
    subscription: &Subscription,
    form: &Fields,
    wrong: &[(String, String)],
    tried: Option<&Tried<'_>>,
) -> Page {
    let body = match subscription.state {
        State::Disabled => html! { p { "The subscription is disabled. Enable it first." } },
        State::Active | State::Paused if visit.may_manage() => fields(visit, subscription, form, wrong),
        State::Active | State::Paused => html! { p { "Your key may only read, so it cannot send anything." } },
    };
    let judged = if visit.may_manage() { tester::show(visit, subscription, tried).await } else { nothing() };
    let content = html! {
        @if tried.is_some() { (judged) }
        (panel("Send a sample", &nothing(), &body))
        @if tried.is_none() { (judged) }
        @if visit.may_manage() && subscription.state != State::Disabled { (emitters::form(visit, subscription)) }
    };
    framed(visit, subscription, "/try", &content)
}

fn fields(visit: &Visit, subscription: &Subscription, form: &Fields, wrong: &[(String, String)]) -> Markup {
    let named = subscription.settings.event_types.exact().and_then(|types| types.first().map(|one| one.as_str()));
    let mistake = |field: &str| wrong.iter().find(|(name, _)| name == field).map(|(_, why)| why.as_str());
    html! {
        p {
            "An event is sent to this receiver now, whatever patterns and filters say. It is signed, retried and "
            "logged like any other, and the next page shows what comes of it."
            @if subscription.state == State::Paused { " While the subscription is paused, it waits." }
        }
        form.stack method="post" action=(visit.to(format!("subscriptions/{}/test", subscription.id))) {
            div.field {
                label for="event_type" { "Event type" }
                input.mono #event_type name="event_type" type="text" autocomplete="off" spellcheck="false"
                    placeholder=(named.unwrap_or(SAMPLE_TYPE_DEFAULT)) value=(form.text("event_type"))
                    aria-invalid=[mistake("event_type").map(|_| "true")];
                @if let Some(why) = mistake("event_type") { p.wrong { (why) } }
            }
            div.field {
                label for="payload" { "Payload, as JSON" }
                textarea.mono #payload name="payload" rows="8" spellcheck="false"
                    placeholder="one that says what it is, where this is empty"
                    aria-invalid=[mistake("payload").map(|_| "true")] { (form.text("payload")) }
                @if let Some(why) = mistake("payload") { p.wrong { (why) } }
            }
            button.button.main type="submit" { (visit.icon("send")) "Send it" }
        }
    }
}

/// Sends the sample, and shows its delivery.
pub(crate) async fn send(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: SubscriptionId = visit.find(id).await?;
    let given = |field: &str| form.get(field).map(str::trim).filter(|text| !text.is_empty());
    let payload = given("payload").map(|text| serde_json::from_str::<Value>(text).map(|_| text.to_owned().into()));
    let sent = match payload.transpose() {
        Ok(payload) => {
            let event_type = given("event_type").map(str::to_owned);
            visit.app.send_sample(id, Sample { event_type, payload }).await
        }
        Err(why) => Err(ApiError::invalid("payload", format!("must be JSON: {why}"))),
    };
    match sent {
        Ok(delivery) => Ok(Next::done(format!("deliveries/{}", delivery.id), "The sample is on its way.")),
        Err(error @ ApiError::Unprocessable(_)) => {
            let wrong = error.problem().errors().iter().map(|one| (one.field.clone(), one.message.clone()));
            let subscription = visit.subscriptions().get(id).await?;
            Ok(Next::Show(with(visit, &subscription, form, &wrong.collect::<Vec<_>>(), None).await))
        }
        Err(error) => Err(error),
    }
}
