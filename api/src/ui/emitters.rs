//! Emitters: the list with how far each is, and the forms that start one: for any subscription or tenant here, and for
//! one subscription on its own page.

use maud::{Markup, html};
use postrider_core::{
    access::tenancy::TENANT_DEFAULT,
    emitter::{
        self, Emitter, Status,
        input::{DURATION_SECONDS_DEFAULT, DURATION_SECONDS_MAX},
        schedule::{RATE_MAX, RATE_MIN},
        template::Template,
    },
    event::idempotency::Creation,
    id::{EmitterId, SubscriptionId},
    subscription::{Subscription, cache::SubscriptionCache},
};
use serde_json::Value;

use crate::{
    emitters::EmitterBody,
    serve::problem::ApiError,
    ui::{
        deliveries::name,
        fields::{Fields, query},
        page::{Next, Note, Page, Section, Visit},
        parts::{self, Button, Tone, Weight, nothing, panel},
        rows::{Rows, window},
    },
};

/// The page with the list.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let list = match list(visit).await {
        Ok(rows) => show(visit, &rows).await,
        Err(error) => parts::trouble(visit, &error),
    };
    let body = html! {
        (parts::head(&parts::text("Emitters"), &html! { "Streams of sample events at a rate." }, &nothing()))
        div #live hx-get=(visit.here()) hx-trigger="every 2s" hx-select="#live" hx-swap="outerMorph" {
            section.panel #list { (list) }
        }
        @if visit.may_manage() { (panel("Start a stream", &nothing(), &new(visit))) }
    };
    Ok(Page::new(Section::Emitters, "Emitters", body))
}

/// The form that starts an emitter for any subscription, or for all of a tenant that want its events.
fn new(visit: &Visit) -> Markup {
    html! {
        form.stack method="post" action=(visit.to("emitters")) {
            div.two {
                div.field {
                    label for="subscription_id" { "Subscription" }
                    input.mono #subscription_id name="subscription_id" type="text" autocomplete="off" spellcheck="false"
                        value=(visit.query.text("subscription_id")) placeholder="all that want the events";
                }
                @if visit.access.tenant().is_none() {
                    div.field {
                        label for="tenant_id" { "Tenant, where no subscription is named" }
                        input #tenant_id name="tenant_id" type="text" autocomplete="off" spellcheck="false"
                            value=(visit.tenant().unwrap_or_default()) placeholder=(TENANT_DEFAULT);
                    }
                }
            }
            (stream())
            button.button.main type="submit" { (visit.icon("audio-waveform")) "Start the stream" }
        }
    }
}

async fn list(visit: &Visit) -> Result<Rows<Emitter>, ApiError> {
    let tenant = visit.lists()?;
    let subscription = visit.find_named("subscription_id").await?;
    let window = window(visit, |id: EmitterId| id.0)?;
    let found = emitter::list(visit.pool(), tenant.as_deref(), subscription, None, window).await?;
    Ok(Rows::whole(found, |emitter| emitter.id.0))
}

async fn show(visit: &Visit, rows: &Rows<Emitter>) -> Markup {
    if rows.is_empty() {
        return parts::empty(
            visit,
            "audio-waveform",
            "No emitters",
            &html! {
                p { "An emitter sends a receiver sample events, so that one sees how it bears them." }
                @if visit.may_manage() {
                    p { "One is started here, on the page of a subscription under “Try”, or by the API." }
                }
            },
        );
    }
    html! {
        table.cards {
            caption.unseen { "Emitters" }
            thead {
                tr {
                    th scope="col" { "Status" }
                    th scope="col" { "Events" }
                    th scope="col" { "To" }
                    th.number scope="col" { "A second" }
                    th.number scope="col" { "Made" }
                    th scope="col" { "Started" }
                    th scope="col" { "Ends" }
                    @if visit.may_manage() { th scope="col" { span.unseen { "What can be done" } } }
                }
            }
            tbody { @for one in &rows.items { (row(visit, one).await) } }
        }
        (rows.foot(visit, EmitterId::PREFIX, "emitters"))
    }
}

async fn row(visit: &Visit, one: &Emitter) -> Markup {
    let made = query([("metadata", format!("{}:{}", emitter::METADATA_KEY, one.id).as_str())]);
    let stop = Button { action: format!("emitters/{}/stop", one.id), icon: "x", word: "Stop", weight: Weight::Usual };
    html! {
        tr {
            td { (status(visit, one.status)) }
            th scope="row" {
                a href=(visit.to(format!("events{made}"))) { (one.event_type) }
                span.sub.mono { (parts::short(one.id)) }
                @if let Some(error) = &one.last_error { span.why { (error) } }
            }
            td data-label="To" { (receiver(visit, &visit.app.cache, one).await) }
            td.number data-label="A second" { (one.rate) }
            td.number data-label="Made" {
                (parts::count(one.emitted))
                @if one.skipped > 0 { span.sub { (parts::count(one.skipped)) " left out" } }
            }
            td data-label="Started" { (parts::time(visit, one.started_at)) }
            td data-label="Ends" { (parts::time(visit, one.finished_at.unwrap_or(one.ends_at))) }
            @if visit.may_manage() { td.do { @if one.status == Status::Running { (stop.form(visit)) } } }
        }
    }
}

fn status(visit: &Visit, status: Status) -> Markup {
    match status {
        Status::Running => parts::badge(visit, Tone::Info, "loader-circle", "Running"),
        Status::Stopped => parts::badge(visit, Tone::Plain, "ban", "Stopped"),
        Status::Ended => parts::badge(visit, Tone::Ok, "circle-check", "Ended"),
    }
}

async fn receiver(visit: &Visit, known: &SubscriptionCache, emitter: &Emitter) -> Markup {
    let Some(id) = emitter.subscription_id else { return html! { span.sub { "all who want them" } } };
    if let Ok(Some(subscription)) = known.get(id).await {
        html! { a href=(visit.to(format!("subscriptions/{id}"))) { (name(&subscription)) } }
    } else {
        html! { span.mono { (parts::short(id)) } }
    }
}

/// The fields that say what a stream is made of, and how much of it.
fn stream() -> Markup {
    html! {
        div.four {
            div.field {
                label for="rate_per_second" { "Events a second" }
                input #rate_per_second name="rate_per_second" type="number" min=(RATE_MIN) max=(RATE_MAX)
                    step="any" value="1" required;
            }
            div.field {
                label for="duration_seconds" { "For how many seconds" }
                input #duration_seconds name="duration_seconds" type="number" min="1" max=(DURATION_SECONDS_MAX)
                    value=(DURATION_SECONDS_DEFAULT) required;
            }
            div.field {
                label for="stream_type" { "Event type" }
                input.mono #stream_type name="event_type" type="text" autocomplete="off" spellcheck="false"
                    placeholder="as for a sample";
            }
        }
        div.field {
            label for="template" { "Payload, as JSON; {{number}}, {{time}}, {{id}} and {{random}} are filled in" }
            textarea.mono #template name="template" rows="4" spellcheck="false" { (Template::default().to_text()) }
        }
    }
}

/// The form on a subscription's page that starts an emitter.
pub(crate) fn form(visit: &Visit, subscription: &Subscription) -> Markup {
    let its = query([("subscription_id", subscription.id.to_string().as_str())]);
    let all = html! { a href=(visit.to(format!("emitters{its}"))) { "Its emitters" } };
    let body = html! {
        form.stack method="post" action=(visit.to(format!("subscriptions/{}/emit", subscription.id))) {
            (stream())
            button.button type="submit" { (visit.icon("audio-waveform")) "Start the stream" }
        }
    };
    panel("Send a stream of samples", &all, &body)
}

/// Starts an emitter for the subscription in the path, and shows the list.
pub(crate) async fn begin(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: SubscriptionId = visit.find(id).await?;
    let body = body(form).map(|body| EmitterBody { subscription_id: Some(id.to_string()), ..body });
    after(start(visit, body).await, format!("subscriptions/{id}/try"))
}

/// Starts an emitter for what the form names, and shows the list.
pub(crate) async fn create(visit: &Visit, form: &Fields) -> Result<Next, ApiError> {
    let subscription = form.get("subscription_id").map(str::to_owned);
    // A subscription belongs to one tenant, and only the tenant of a stream for all is asked for.
    let tenant = form.get("tenant_id").filter(|_| subscription.is_none()).map(str::to_owned);
    let body = body(form).map(|body| EmitterBody { subscription_id: subscription, tenant_id: tenant, ..body });
    after(start(visit, body).await, "emitters".to_owned())
}

/// What follows the form: the list, or the page `back` with the reason for which nothing was started.
fn after(started: Result<(), ApiError>, back: String) -> Result<Next, ApiError> {
    match started {
        Ok(()) => Ok(Next::done("emitters", "The stream begins within a second.")),
        Err(error @ (ApiError::Unprocessable(_) | ApiError::Conflict(_))) => {
            let why = format!("No stream was started: {}.", error.problem().detail());
            Ok(Next::Go(back, Note::Refused(why)))
        }
        Err(error) => Err(error),
    }
}

/// What the form says about the stream itself.
fn body(form: &Fields) -> Result<EmitterBody, ApiError> {
    let number = |field: &str| ApiError::invalid(field, "must be a number");
    let rate = form.get("rate_per_second").unwrap_or("1");
    let duration = form.get("duration_seconds").map(|text| text.parse().map_err(|_| number("duration_seconds")));
    let template = form.get("template").map(serde_json::from_str::<Value>).transpose();
    Ok(EmitterBody {
        subscription_id: None,
        tenant_id: None,
        event_type: form.get("event_type").map(str::to_owned),
        rate_per_second: rate.parse().map_err(|_| number("rate_per_second"))?,
        duration_seconds: duration.transpose()?,
        template: template.map_err(|why| ApiError::invalid("template", format!("must be JSON: {why}")))?,
    })
}

async fn start(visit: &Visit, body: Result<EmitterBody, ApiError>) -> Result<(), ApiError> {
    let app = &visit.app;
    let new = app.new_emitter(&visit.access, body?).await?;
    match emitter::create(&app.pool, &app.keyring, visit.access.actor(), &new, None, |_| Vec::new()).await? {
        // Only a request with an idempotency key gets an earlier answer, and a form has none.
        Creation::Now(_) | Creation::Before(_) => Ok(()),
    }
}

/// Stops an emitter.
pub(crate) async fn stop(visit: &Visit, id: &str) -> Result<Next, ApiError> {
    let id: EmitterId = visit.find(id).await?;
    emitter::stop(&visit.app.pool, visit.access.actor(), id).await?;
    Ok(Next::done("emitters", "The stream is stopped."))
}
