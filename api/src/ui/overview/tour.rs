//! What a fresh installation shows: three steps to a first delivery, each a command that works with this server. A
//! customer who came by a portal link sees a sentence.

use maud::{Markup, html};
use postrider_core::subscription::list::Filter;

use crate::{
    serve::problem::ApiError,
    ui::{page::Visit, parts, rows},
};

/// The steps, with a mark at those that are done.
pub(crate) async fn show(visit: &Visit) -> Result<Markup, ApiError> {
    if visit.is_customer() {
        return Ok(nothing_yet(visit));
    }
    let filter = Filter { tenant_id: visit.lists()?, ..Filter::default() };
    let newest = visit.subscriptions().list(&filter, rows::first(1)).await?.items.pop();
    let id = newest.as_ref().map_or_else(|| "$SUB".to_owned(), |newest| newest.id.to_string());
    let address = &visit.address;
    let create = format!(
        "curl {address}/subscriptions \\\n  -H \"Authorization: Bearer $KEY\" \\\n  -d '{{\"target_url\": \
         \"https://example.com/webhooks\"}}'"
    );
    let publish = format!(
        "curl {address}/events \\\n  -H \"Authorization: Bearer $KEY\" \\\n  -d '{{\"event_type\": \"order.created\", \
         \"payload\": {{\"order\": 42}}}}'"
    );
    let look = format!("curl \"{address}/deliveries?subscription_id={id}\" -H \"Authorization: Bearer $KEY\"");
    let step = |done: bool, title: &str, say: Markup, command: &str| {
        html! {
            li.step data-done=(done) {
                h3 {
                    @if done { (visit.icon("circle-check")) } @else { (visit.icon("circle-dashed")) }
                    (title)
                    @if done { span.unseen { " (done)" } }
                }
                p { (say) }
                (parts::code_box(visit, title, command))
            }
        }
    };
    Ok(html! {
        section.panel {
            header { h2 { "Three steps to a first delivery" } }
            ol.tour {
                (step(newest.is_some(), "Create a subscription", html! {
                    "It says where events go. " a href=(visit.to("subscriptions/new")) { "Fill in a form" }
                    ", or send this:"
                }, &create))
                (step(false, "Publish an event", html! {
                    "It is stored, and goes to every subscription that wants it." }, &publish))
                (step(false, "See it arrive", html! {
                    "The delivery appears on this page by itself. The API shows it as well:" }, &look))
            }
        }
    })
}

/// What a customer sees instead, who has no key for commands.
fn nothing_yet(visit: &Visit) -> Markup {
    let body = html! {
        p { "Deliveries appear on this page by themselves." }
        @if visit.may_manage() {
            p { a.button.main href=(visit.to("subscriptions/new")) { (visit.icon("plus")) "New subscription" } }
        }
    };
    html! { section.panel { (parts::empty(visit, "send", "Nothing was delivered yet", &body)) } }
}
