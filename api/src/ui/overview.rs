//! The first page: whether deliveries flow, what is in the way, and for a fresh installation, the way to a first
//! delivery. Everything here is read along indexes, and each part has its own time limit, so the page comes also when
//! the database is slow.

mod backlog;
mod receivers;
mod tour;
mod verdict;

use maud::{Markup, html};
use postrider_core::{
    delivery::{
        Delivery, dead_letter,
        dead_letter::{DeadLetter, Resolved},
        list as delivery_list,
    },
    queue::glance::{self, Glance},
    subscription::{
        Subscription,
        list::{Filter, Receiver},
    },
};

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries::{self, Receivers},
        demo,
        overview::verdict::Known,
        page::{Page, Section, Visit},
        parts::{self, nothing, panel},
        rows, statistics,
    },
};

/// Rows of each short list on the page.
const ROWS: i64 = 6;
/// Failing receivers that are counted, at most.
const FAILING_MAX: i64 = 100;

/// The page.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let (recent, failing, dead, queue, worst) =
        tokio::join!(recent(visit), failing(visit), dead_letters(visit), glance(visit), receivers::read(visit));
    let shared_cause = worst.as_ref().ok().and_then(receivers::Worst::shared_cause);
    let known = Known { failing: &failing, dead: &dead, queue: queue.as_ref(), recent: &recent, shared_cause };
    let is_new = matches!(&recent, Ok(recent) if recent.is_empty());
    let all = html! { a href=(visit.to("deliveries")) { "All deliveries" } };
    let body = html! {
        div #live hx-get=(visit.here()) hx-trigger="every 5s" hx-select="#live" hx-swap="outerMorph" {
            (parts::head(&parts::text("Overview"), &nothing(), &demo::button(visit)))
            (verdict::show(visit, &known))
            @if is_new { (tour::show(visit).await?) } @else {
                (backlog::show(visit, queue.as_ref().and_then(|queue| queue.as_ref().ok())).await)
                (receivers::show(visit, &worst, &failing).await)
                (statistics::numbers(visit, None).await)
            }
            div.columns {
                @if !is_new { (statistics::causes(visit, None).await) }
                (dead_panel(visit, &dead).await)
            }
            @if !is_new { (panel("Latest deliveries", &all, &recent_list(visit, &recent).await)) }
        }
    };
    Ok(Page::new(Section::Overview, "Overview", body))
}

async fn recent(visit: &Visit) -> Result<Vec<Delivery>, ApiError> {
    let filter = delivery_list::Filter { tenant_id: visit.lists()?, ..delivery_list::Filter::default() };
    Ok(delivery_list::list(visit.pool(), &filter, rows::first(ROWS + 2)).await?.items)
}

async fn failing(visit: &Visit) -> Result<Vec<Subscription>, ApiError> {
    let filter = Filter { tenant_id: visit.lists()?, receiver: Some(Receiver::Failing), ..Filter::default() };
    Ok(visit.subscriptions().list(&filter, rows::first(FAILING_MAX)).await?.items)
}

async fn dead_letters(visit: &Visit) -> Result<Vec<DeadLetter>, ApiError> {
    let filter = dead_letter::Filter {
        tenant_id: visit.lists()?,
        subscription: None,
        since: None,
        until: None,
        resolved: Resolved::Excluded,
        error_kind: None,
        status_code: None,
    };
    Ok(dead_letter::list(visit.pool(), &filter, rows::first(FAILING_MAX)).await?.items)
}

/// What a glance at the queue tells; `None` where one tenant is looked at, because lanes know no tenants.
async fn glance(visit: &Visit) -> Option<Result<Glance, ApiError>> {
    if visit.access.tenant().is_some() || visit.tenant().is_some() {
        return None;
    }
    Some(glance::glance(visit.pool()).await.map_err(ApiError::from))
}

async fn dead_panel(visit: &Visit, dead: &Result<Vec<DeadLetter>, ApiError>) -> Markup {
    let more = html! { a href=(visit.to("dead-letters")) { "All" } };
    let body = match dead {
        Err(error) => parts::trouble(visit, error),
        Ok(dead) if dead.is_empty() => parts::empty(
            visit,
            "inbox",
            "No dead letters",
            &html! {
                p { "What runs out of attempts waits here for a decision." }
            },
        ),
        Ok(dead) => {
            let first = dead.iter().take(usize::try_from(ROWS).unwrap_or(0));
            let first: Vec<_> = first.map(|letter| letter.delivery.clone()).collect();
            let receivers = Receivers::of(visit, &first).await;
            html! {
                ul.brief {
                    @for delivery in &first {
                        li {
                            div {
                                a href=(visit.to(format!("deliveries/{}", delivery.id))) {
                                    (delivery.event_type.as_deref().unwrap_or("an event that is gone"))
                                }
                                span.sub { "to " (receivers.name(delivery)) }
                            }
                            span.sub { (deliveries::answer(delivery)) }
                        }
                    }
                }
            }
        }
    };
    panel("Dead letters", &more, &body)
}

async fn recent_list(visit: &Visit, recent: &Result<Vec<Delivery>, ApiError>) -> Markup {
    match recent {
        Err(error) => parts::trouble(visit, error),
        Ok(recent) => deliveries::table(visit, recent, "The latest deliveries").await,
    }
}
