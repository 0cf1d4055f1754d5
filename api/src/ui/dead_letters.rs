//! Dead letters: grouped by receiver and cause, or as a list, and what can be decided about each and about all.

pub(crate) mod groups;

use maud::{Markup, html};
use postrider_core::{
    delivery::{
        Status,
        dead_letter::{self, DeadLetter, Filter, Marked, Resolved},
        job::{Action, filter::cause as parse_cause},
    },
    id::{DeliveryId, SubscriptionId},
};

use crate::{
    serve::{list::span, problem::ApiError},
    ui::{
        beside::beside,
        deliveries::{
            Receivers, answer,
            filters::moment,
            is_open, named,
            selected::{self, Ticks},
        },
        fields::{Fields, is_own_path},
        jobs::new::link,
        page::{Next, Page, Section, Undo, Visit},
        parts::{self, Button, Tone, Weight},
        rows::{Rows, window},
    },
};

/// The status of all deliveries on the page.
const DEAD: Option<Status> = Some(Status::DeadLetter);

/// The page.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let of_filter = for_job(&visit.query);
    let fields: Vec<_> = of_filter.pairs().collect();
    let actions = html! {
        @if visit.may_manage() {
            (link(visit, Action::Retry, &fields, "Retry all"))
            (link(visit, Action::Resolve, &fields, "Resolve all"))
            (link(visit, Action::Purge, &fields, "Purge all"))
        }
    };
    let shown = if is_list(visit) {
        match list(visit).await {
            Ok(rows) => show(visit, &rows, &actions).await,
            Err(error) => parts::trouble(visit, &error),
        }
    } else {
        match filter(visit).await {
            Ok(filter) => groups::show(visit, &filter).await,
            Err(error) => parts::trouble(visit, &error),
        }
    };
    let body = html! {
        (parts::head(&parts::text("Dead letters"), &html! {
            "Deliveries that ran out of attempts, or were refused for good. Retry them, or mark them as resolved."
        }, &actions))
        (chips(visit))
        (beside(visit, &shown).await)
    };
    Ok(Page::new(Section::DeadLetters, "Dead letters", body))
}

/// Whether the page shows each dead letter instead of groups.
fn is_list(visit: &Visit) -> bool {
    visit.query.get("view") == Some("list")
}

async fn filter(visit: &Visit) -> Result<Filter, ApiError> {
    let fields = &visit.query;
    let times =
        span(moment("since", fields.get("since"), visit.now)?, moment("until", fields.get("until"), visit.now)?)?;
    let error_kind = fields.get("error_kind").map(parse_cause).transpose();
    let status_code = fields.get("status_code").map(str::parse).transpose();
    Ok(Filter {
        tenant_id: visit.lists()?,
        subscription: visit.find_named("subscription_id").await?,
        since: times.since,
        until: times.until,
        resolved: if fields.has("include_resolved") { Resolved::Included } else { Resolved::Excluded },
        error_kind: error_kind.map_err(|why| ApiError::invalid("error_kind", why))?,
        status_code: status_code.map_err(|_| ApiError::invalid("status_code", "must be a status such as 503"))?,
    })
}

/// The fields of this page as fields of a job's filter.
fn for_job(fields: &Fields) -> Fields {
    let names = [
        ("tenant_id", "tenant_id"),
        ("subscription_id", "subscription_id"),
        ("error_kind", "error_kinds"),
        ("status_code", "status_codes"),
        ("since", "dead_since"),
        ("until", "dead_until"),
        ("include_resolved", "include_resolved"),
    ];
    let pairs = names.iter().filter_map(|(own, of_job)| Some(((*of_job).to_owned(), fields.get(own)?.to_owned())));
    Fields::of([("statuses".to_owned(), "dead_letter".to_owned())].into_iter().chain(pairs).collect())
}

async fn list(visit: &Visit) -> Result<Rows<DeadLetter>, ApiError> {
    let filter = filter(visit).await?;
    let found = dead_letter::list(visit.pool(), &filter, window(visit, |id: DeliveryId| id.0)?).await?;
    Ok(Rows::of(found, |letter| letter.delivery.id.0))
}

fn chips(visit: &Visit) -> Markup {
    let fields = visit.query.with("cursor", None);
    let (all, list) = (fields.has("include_resolved"), is_list(visit));
    let cause = [fields.get("error_kind").map(groups::cause), fields.get("status_code")];
    let cause: Vec<_> = cause.into_iter().flatten().collect();
    let place = |fields: Fields| visit.to(format!("dead-letters{}", fields.query()));
    html! {
        nav.chips aria-label="Filters" {
            a href=(place(fields.with("view", None))) aria-current=[(!list).then_some("true")] { "Grouped" }
            a href=(place(fields.with("view", Some("list")))) aria-current=[list.then_some("true")] { "Each one" }
            a href=(place(fields.with("include_resolved", None))) aria-current=[(!all).then_some("true")] {
                "To decide"
            }
            a href=(place(fields.with("include_resolved", Some("true")))) aria-current=[all.then_some("true")] {
                "Resolved ones too"
            }
            @if let Some(id) = fields.get("subscription_id") {
                a href=(place(fields.with("subscription_id", None))) aria-current="true" {
                    "Only " (parts::short(id)) (visit.icon("x"))
                }
            }
            @if !cause.is_empty() {
                a href=(place(fields.with("error_kind", None).with("status_code", None))) aria-current="true" {
                    "Only " (cause.join(" ")) (visit.icon("x"))
                }
            }
        }
    }
}

async fn show(visit: &Visit, rows: &Rows<DeadLetter>, all: &Markup) -> Markup {
    if rows.is_empty() {
        return parts::empty(
            visit,
            "inbox",
            "Nothing to decide",
            &html! {
                p { "No delivery waits here. What runs out of attempts comes to this list." }
            },
        );
    }
    let deliveries: Vec<_> = rows.items.iter().map(|letter| letter.delivery.clone()).collect();
    let receivers = Receivers::of(visit, &deliveries).await;
    let ticks = Ticks::of(visit, DEAD);
    html! {
        (rows.newer(visit, DeliveryId::PREFIX, |letter| letter.delivery.id.0))
        table.cards {
            caption.unseen { "Dead letters" }
            thead {
                tr {
                    (selected::head(ticks))
                    th scope="col" { "Event" }
                    th scope="col" { "Receiver" }
                    th scope="col" { "Last answer" }
                    th.number.wide scope="col" { "Attempts" }
                    th scope="col" { "Given up" }
                    @if visit.may_manage() { th.do scope="col" { span.unseen { "What can be done" } } }
                }
            }
            tbody { @for letter in &rows.items { (row(visit, letter, &receivers)) } }
        }
        (selected::bar(visit, DEAD, all))
        (rows.foot(visit, DeliveryId::PREFIX, "dead letters"))
    }
}

fn row(visit: &Visit, letter: &DeadLetter, receivers: &Receivers) -> Markup {
    let delivery = &letter.delivery;
    let button = |action: &str, icon, word| Button {
        action: format!("dead-letters/{}/{action}", delivery.id),
        icon,
        word,
        weight: Weight::Usual,
    };
    html! {
        tr.chosen[is_open(visit, delivery)] id=(delivery.id) {
            (selected::cell(Ticks::of(visit, DEAD), delivery))
            (named(visit, delivery))
            td data-label="Receiver" {
                @match delivery.subscription_id {
                    Some(id) => a.clip href=(visit.to(format!("subscriptions/{}", SubscriptionId(id)))) {
                        (receivers.name(delivery))
                    },
                    None => span.clip { (receivers.name(delivery)) },
                }
            }
            td data-label="Last answer" { (answer(delivery)) }
            td.number.wide data-label="Attempts" { (delivery.attempt_count) }
            td data-label="Given up" {
                (parts::time(visit, letter.dead_at))
                @if let Some(at) = letter.resolved_at {
                    " " (parts::badge(visit, Tone::Ok, "check", "Resolved")) " " span.sub { (parts::time(visit, at)) }
                }
            }
            @if visit.may_manage() {
                td.do {
                    (button("retry", "rotate-cw", "Retry").form(visit))
                    @if letter.resolved_at.is_none() { (button("resolve", "check", "Resolve").form(visit)) }
                }
            }
        }
    }
}

/// Marks a dead letter as resolved.
pub(crate) async fn resolve(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: DeliveryId = visit.find(id).await?;
    let (_, marked) = dead_letter::resolve(&visit.app.pool, id).await?;
    Ok(match marked {
        Marked::Now => {
            let undo = Undo::by(format!("dead-letters/{id}/unresolve"));
            Next::undoable(back(form), "The dead letter is marked as resolved.", undo)
        }
        Marked::Before => Next::done(back(form), "The dead letter had been marked as resolved before."),
    })
}

/// Takes the mark back.
pub(crate) async fn unresolve(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: DeliveryId = visit.find(id).await?;
    dead_letter::unresolve(&visit.app.pool, id).await?;
    Ok(Next::done(back(form), "The dead letter waits for a decision again."))
}

/// The page to which a form returns.
fn back(form: &Fields) -> &str {
    form.get("back").filter(|path| is_own_path(path)).unwrap_or("dead-letters")
}
