//! A delivery beside a list, so that one looks at many of them without leaving the list. Which one it is stands in the
//! address. Without scripts a row leads to the delivery's own page, and so it does where the screen is narrow.

use maud::{Markup, html};
use postrider_core::{
    delivery::{self, Delivery, Status},
    id::DeliveryId,
    queue::attempt,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries::Receivers,
        delivery::{LOOK_EVERY, actions, standing, timeline},
        fields::OPEN,
        page::Visit,
        parts,
    },
};

/// A list with the delivery that is open beside it, where one is.
pub(crate) async fn beside(visit: &Visit, list: &Markup) -> Markup {
    let Some(id) = visit.open() else { return html! { section.panel #list { (list) } } };
    let shown = match read(visit, id).await {
        Ok(shown) => shown,
        Err(error) => parts::trouble(visit, &error),
    };
    html! {
        div.split {
            section.panel #list { (list) }
            section.panel.beside aria-label="The open delivery" {
                (shown)
                a.close href=(visit.with_query(&visit.query.with(OPEN, None))) aria-label="Close" title="Close" {
                    (visit.icon("x"))
                }
            }
        }
    }
}

async fn read(visit: &Visit, id: &str) -> Result<Markup, ApiError> {
    let id: DeliveryId = visit.find(id).await?;
    let delivery = delivery::get(visit.pool(), id).await?;
    let receivers = Receivers::of(visit, std::slice::from_ref(&delivery)).await;
    let attempts = attempt::list(visit.pool(), id).await.map_err(ApiError::from);
    let is_open = matches!(delivery.status, Status::Pending | Status::InFlight);
    let own = visit.to(format!("deliveries/{id}"));
    Ok(html! {
        div #live hx-get=[is_open.then(|| visit.here())] hx-trigger=[is_open.then_some(LOOK_EVERY)]
            hx-select="#live" hx-swap="outerMorph" {
            header {
                h2 {
                    a href=(own) { (delivery.event_type.as_deref().unwrap_or("Delivery")) } " "
                    (parts::status(visit, delivery.status))
                }
            }
            p { "to " (receivers.name(&delivery)) " · " (parts::id(visit, id)) }
            div.actions {
                a.button href=(own) { (visit.icon("external-link")) "Its page" }
                (actions(visit, &delivery))
            }
            (standing(visit, &delivery, &receivers))
            @match &attempts {
                Ok(attempts) => (timeline::show(visit, &delivery, attempts)),
                Err(error) => (parts::trouble(visit, error)),
            }
        }
    })
}

/// The address of a list with this delivery open, for the script that opens it beside the list.
pub(crate) fn opens(visit: &Visit, delivery: &Delivery) -> String {
    let id = delivery.id.to_string();
    format!("{}#{id}", visit.with_query(&visit.query.with(OPEN, Some(&id))))
}
