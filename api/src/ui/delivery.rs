//! One delivery: how it stands, every attempt with its answer, the request as it was sent, and what can be done now.

mod request;
pub(crate) mod timeline;
pub(crate) mod verify;

use maud::{Markup, html};
use postrider_core::{
    delivery::{self, Delivery, Status, replay_now},
    event::idempotency::Creation,
    id::{DeliveryId, EventId, JobId, SubscriptionId},
    queue::attempt,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries::Receivers,
        fields::{Fields, is_own_path},
        page::{Next, Page, Section, Visit},
        parts::{self, Button, Weight, facts, nothing, panel},
    },
};

/// Seconds after which an unfinished delivery's page looks again.
pub(crate) const LOOK_EVERY: &str = "every 2s";

/// The page.
pub(crate) async fn page(visit: &Visit, id: &str) -> Result<Page, ApiError> {
    let id: DeliveryId = visit.find(id).await?;
    let delivery = delivery::get(visit.pool(), id).await?;
    let attempts = attempt::list(visit.pool(), id).await.map_err(ApiError::from);
    let receivers = Receivers::of(visit, std::slice::from_ref(&delivery)).await;
    let title = delivery.event_type.clone().unwrap_or_else(|| "Delivery".to_owned());
    let is_open = matches!(delivery.status, Status::Pending | Status::InFlight);
    let head = parts::head(
        &html! { (title) " " (parts::status(visit, delivery.status)) },
        &html! { "to " (receivers.name(&delivery)) " · " (parts::id(visit, id)) },
        &actions(visit, &delivery),
    );
    let request = match &attempts {
        Ok(attempts) => request::show(visit, &delivery, attempts.last()).await,
        Err(_) => nothing(),
    };
    let timeline = match &attempts {
        Ok(attempts) => timeline::show(visit, &delivery, attempts),
        Err(error) => parts::trouble(visit, error),
    };
    let body = html! {
        div #live hx-get=[is_open.then(|| visit.to(&visit.path))] hx-trigger=[is_open.then_some(LOOK_EVERY)]
            hx-select="#live" hx-swap="outerMorph" {
            (head)
            (panel("How it stands", &nothing(), &standing(visit, &delivery, &receivers)))
            (panel("Attempts", &nothing(), &timeline))
        }
        (request)
    };
    Ok(Page::new(Section::Deliveries, title, body))
}

/// What can be done with the delivery at this moment. What cannot be done has no button.
pub(crate) fn actions(visit: &Visit, delivery: &Delivery) -> Markup {
    if !visit.may_manage() {
        return nothing();
    }
    let button = |action: &str, icon, word, weight| Button {
        action: format!("deliveries/{}/{action}", delivery.id),
        icon,
        word,
        weight,
    };
    match delivery.status {
        Status::InFlight => html! { p.hint { "A worker is at it; wait for its outcome." } },
        Status::Pending => html! {
            (button("retry", "rotate-cw", "Attempt now", Weight::Main).form(visit))
            (button("cancel", "ban", "Cancel", Weight::Usual)
                .behind(visit, "It is not attempted any more. It can be retried later all the same."))
        },
        Status::DeadLetter => html! {
            (button("retry", "rotate-cw", "Retry", Weight::Main).form(visit))
            (button("replay", "history", "Replay", Weight::Usual).form(visit))
        },
        Status::Succeeded | Status::Canceled => html! {
            (button("replay", "history", "Replay", Weight::Usual).form(visit))
            (button("retry", "rotate-cw", "Retry", Weight::Usual).behind(
                visit,
                "The same delivery gets a fresh round of attempts. A replay makes a new one and leaves this as it is.",
            ))
        },
    }
}

/// The facts about a delivery.
pub(crate) fn standing(visit: &Visit, delivery: &Delivery, receivers: &Receivers) -> Markup {
    let link = |path: String, text: String| html! { a href=(visit.to(path)) { (text) } };
    let event = EventId(delivery.event_id);
    let mut pairs = vec![("Event", html! { span.mono { (link(format!("events/{event}"), parts::short(event))) } })];
    if let Some(id) = delivery.subscription_id.map(SubscriptionId) {
        pairs.push(("Subscription", link(format!("subscriptions/{id}"), receivers.name(delivery))));
    }
    if let Some(url) = &delivery.target_url {
        pairs.push(("Target", html! { span.mono { (url) } }));
    }
    pairs.push(("Tenant", parts::text(&delivery.tenant_id)));
    pairs.push(("Attempts", parts::text(delivery.attempt_count)));
    pairs.push(("Created", parts::time(visit, delivery.created_at)));
    if let Some(at) = delivery.finished_at {
        pairs.push(("Finished", parts::time(visit, at)));
    }
    if delivery.status == Status::Pending {
        pairs.push((
            "Next attempt",
            match delivery.next_attempt_at {
                Some(at) if at > visit.now => parts::time(visit, at),
                Some(_) => parts::text("as soon as a worker has room"),
                None => parts::text("after an earlier delivery of its ordering key"),
            },
        ));
    }
    if let Some(at) = delivery.expires_at {
        pairs.push(("Expires", parts::time(visit, at)));
    }
    if delivery.has_expired() {
        pairs.push(("Canceled because", parts::text("its event had expired")));
    }
    if let Some(id) = delivery.replay_of.map(DeliveryId) {
        pairs.push(("Replays", link(format!("deliveries/{id}"), parts::short(id))));
    }
    if let Some(id) = delivery.job_id.map(JobId) {
        pairs.push(("Made by", link(format!("jobs/{id}"), parts::short(id))));
    }
    facts(&pairs)
}

/// The page to which a form returns: the one that it names, or else the delivery's.
fn back(form: &Fields, id: DeliveryId) -> String {
    let named = form.get("back").filter(|path| is_own_path(path));
    named.map_or_else(|| format!("deliveries/{id}"), str::to_owned)
}

/// Makes a delivery due at once.
pub(crate) async fn retry(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: DeliveryId = visit.find(id).await?;
    delivery::retry(&visit.app.pool, id).await?;
    Ok(Next::done(back(form, id), "The delivery is attempted again now."))
}

/// Cancels a delivery that waits.
pub(crate) async fn cancel(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: DeliveryId = visit.find(id).await?;
    delivery::cancel(&visit.app.pool, id).await?;
    Ok(Next::done(back(form, id), "The delivery is canceled."))
}

/// Makes a fresh delivery of the same event to the same place, and shows it.
pub(crate) async fn replay(visit: &Visit, id: &str) -> Result<Next, ApiError> {
    let id: DeliveryId = visit.find(id).await?;
    let made = replay_now::of_delivery(&visit.app.pool, &visit.app.keyring, id, None, |_| Vec::new()).await?;
    match made {
        Creation::Now(fresh) => {
            Ok(Next::done(format!("deliveries/{fresh}"), "This is the fresh delivery. The one it replays stays."))
        }
        // Only a request with an idempotency key gets an earlier answer, and a form has none.
        Creation::Before(_) => Ok(Next::done(format!("deliveries/{id}"), "The delivery was replayed before.")),
    }
}
