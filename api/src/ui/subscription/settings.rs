//! The settings of a subscription: a summary to read, and a form to change them or to create a new subscription. A
//! mistake stands at its field. The rules are those of the API.

mod form;
pub(super) mod input;
mod schedule;

use chrono::TimeDelta;
use maud::{Markup, html};
use poem::http::StatusCode;
use postrider_core::{
    Error,
    event::idempotency::Creation,
    id::SubscriptionId,
    queue::retry_policy::Schedule,
    subscription::{Subscription, settings_input::Checked},
    validation::Problems,
};

use crate::{
    serve::problem::ApiError,
    subscriptions::body::SubscriptionInput,
    ui::{
        fields::Fields,
        page::{Next, Page, Section, Visit},
        parts::{self, Button, Weight, facts, nothing, panel},
        subscription::{framed, read, signing},
    },
};

/// Mistakes in a form: the path of each field as the API names it, and what is wrong with it.
type Mistakes = Vec<(String, String)>;

/// The page with the form that changes a subscription.
pub(crate) async fn page(visit: &Visit, id: &str) -> Result<Page, ApiError> {
    let subscription = read(visit, id).await?;
    let fields = input::fields(&SubscriptionInput::of(&subscription));
    Ok(changing(visit, &subscription, &fields, &Vec::new()))
}

/// The page with the form that creates a subscription.
pub(crate) fn new(visit: &Visit) -> Result<Page, ApiError> {
    visit.require(postrider_core::access::api_key::Scope::Manage)?;
    Ok(creating(visit, &input::fresh(), &Vec::new()))
}

fn creating(visit: &Visit, fields: &Fields, mistakes: &Mistakes) -> Page {
    let body = html! {
        (parts::head(
            &parts::text("New subscription"), &parts::text("It begins to receive events at once."), &nothing(),
        ))
        form.settings method="post" action=(visit.to("subscriptions/new")) {
            @let entered = form::Entered { fields, mistakes, check: visit.to("subscriptions/check") };
            (form::mistakes(visit, mistakes))
            (form::basics(&entered, form::For::Creation { any_tenant: visit.access.tenant().is_none() }))
            (form::details(&entered))
            div.save { button.button.main type="submit" { "Create the subscription" }
                a.button href=(visit.to("subscriptions")) { "Do not" } }
        }
    };
    Page::new(Section::Subscriptions, "New subscription", body)
}

fn changing(visit: &Visit, subscription: &Subscription, fields: &Fields, mistakes: &Mistakes) -> Page {
    let own = format!("subscriptions/{}", subscription.id);
    let content = if visit.may_manage() {
        html! {
            form.settings method="post" action=(visit.to(format!("{own}/settings"))) {
                @let entered = form::Entered { fields, mistakes, check: visit.to(format!("{own}/check")) };
                input type="hidden" name="updated_at" value=(stamp(subscription));
                (form::mistakes(visit, mistakes))
                (form::basics(&entered, form::For::Change))
                (form::details(&entered))
                div.save { button.button.main type="submit" { "Save the settings" } }
            }
            (panel("Delete", &nothing(), &html! {
                p.hint {
                    "Its deliveries that wait are canceled. What has been can be read until retention removes it."
                }
                (Button { action: format!("{own}/delete"), icon: "x", word: "Delete", weight: Weight::Usual }
                    .behind(visit, "This cannot be undone."))
            }))
        }
    } else {
        panel("What it is", &nothing(), &summary(visit, subscription))
    };
    framed(visit, subscription, "/settings", &content)
}

/// When the subscription was last changed, as the form remembers it.
fn stamp(subscription: &Subscription) -> String {
    subscription.updated_at.timestamp_micros().to_string()
}

/// Creates a subscription from the form.
pub(crate) async fn create(visit: &Visit, form: &Fields) -> Result<Next, ApiError> {
    let tenant = visit.access.creates_for(form.get("tenant_id"))?;
    let mut problems = Problems::default();
    let read = input::read(form, SubscriptionInput::default(), &mut problems);
    let app = &visit.app;
    let checked = match check(visit, read, problems, None).await {
        Ok(checked) => checked,
        Err(mistakes) => return Ok(Next::Show(refused(creating(visit, form, &mistakes)))),
    };
    let Checked { settings, secret } = checked;
    let secret = secret.map(|replacement| replacement.secret);
    let actor = visit.access.actor();
    let made = app.subscriptions.create(actor, &tenant, &settings, secret, None, |_| Vec::new()).await?;
    match made {
        Creation::Now(created) => {
            app.forget(&created).await;
            Ok(Next::Show(signing::created(visit, &created)))
        }
        // Only a request with an idempotency key gets an earlier answer, and a form has none.
        Creation::Before(_) => Ok(Next::done("subscriptions", "The subscription exists already.")),
    }
}

/// Changes a subscription to what the form says.
pub(crate) async fn change(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: SubscriptionId = visit.find(id).await?;
    let app = &visit.app;
    let current = app.subscriptions.get(id).await?;
    let again =
        || Error::Conflict("somebody else has changed the subscription meanwhile; open its settings again".into());
    if form.text("updated_at") != stamp(&current) {
        return Err(again().into());
    }
    let mut problems = Problems::default();
    let read = input::read(form, SubscriptionInput::of(&current), &mut problems);
    if let Err(mistakes) = check(visit, read.clone(), problems, Some(&current)).await {
        return Ok(Next::Show(refused(changing(visit, &current, form, &mistakes))));
    }
    let parse = |locked: &Subscription| {
        if locked.updated_at != current.updated_at {
            return Err(again());
        }
        read.parse(&app.target_policy, Some(locked))
    };
    let changed = app.subscriptions.update(visit.access.actor(), id, parse).await?;
    app.forget(&changed).await;
    Ok(Next::done(format!("subscriptions/{id}/settings"), "The settings are saved."))
}

/// Shows the form that creates a subscription with what is wrong in it, and creates nothing. Scripts ask for it when a
/// field was filled in, and take what is said of that field.
pub(crate) async fn check_new(visit: &Visit, form: &Fields) -> Next {
    let mut problems = Problems::default();
    let read = input::read(form, SubscriptionInput::default(), &mut problems);
    let mistakes = check(visit, read, problems, None).await.err().unwrap_or_default();
    Next::Show(creating(visit, form, &mistakes))
}

/// The same for the form that changes a subscription.
pub(crate) async fn check_change(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let current = read(visit, id).await?;
    let mut problems = Problems::default();
    let read = input::read(form, SubscriptionInput::of(&current), &mut problems);
    let mistakes = check(visit, read, problems, Some(&current)).await.err().unwrap_or_default();
    Ok(Next::Show(changing(visit, &current, form, &mistakes)))
}

/// Checks what was read from a form, with all mistakes at once.
async fn check(
    visit: &Visit,
    input: SubscriptionInput,
    mut problems: Problems,
    current: Option<&Subscription>,
) -> Result<Checked, Mistakes> {
    let is_other_target = current.is_none_or(|current| current.settings.target_url.as_str() != input.target_url);
    if is_other_target && let Err(blocked) = visit.app.vet(&input.target_url).await {
        problems.add("target_url", told(&blocked));
    }
    let checked = match input.parse(&visit.app.target_policy, current) {
        Ok(checked) => Some(checked),
        Err(Error::Invalid(more)) => {
            problems.add_part("", more);
            None
        }
        Err(error) => {
            problems.add("", error.to_string());
            None
        }
    };
    match checked.filter(|_| problems.0.is_empty()) {
        Some(checked) => Ok(checked),
        None => Err(problems.0.into_iter().map(|problem| (problem.field, problem.message)).collect()),
    }
}

fn told(error: &ApiError) -> String {
    let problem = error.problem();
    problem.errors().first().map_or_else(|| problem.detail().to_owned(), |first| first.message.clone())
}

fn refused(page: Page) -> Page {
    Page { status: StatusCode::UNPROCESSABLE_ENTITY, ..page }
}

/// The settings in force, to read.
pub(crate) fn summary(visit: &Visit, subscription: &Subscription) -> Markup {
    let settings = &subscription.settings;
    let types = settings.event_types.to_texts();
    let retries = match settings.retry_policy.schedule() {
        Schedule::Delays(delays) => {
            let waits = delays.iter().map(|seconds| parts::span(TimeDelta::seconds((*seconds).into())));
            format!("{} attempts, with waits of {}", delays.len() + 1, waits.collect::<Vec<_>>().join(", "))
        }
        Schedule::Exponential { max_attempts, initial_seconds, factor, max_seconds } => format!(
            "{max_attempts} attempts; the first wait is {initial_seconds} s, each is {factor} times as long as the one \
             before, and none longer than {max_seconds} s"
        ),
    };
    let tags = |texts: &[String]| html! { @for text in texts { code.tag { (text) } " " } };
    let mut pairs = vec![
        ("Target", html! { span.mono { (settings.target_url.as_str()) } }),
        ("Event types", if types.is_empty() { parts::text("every type") } else { tags(&types) }),
        ("Tenant", parts::text(&subscription.tenant_id)),
        ("Retries", html! { (retries) (schedule::show(&settings.retry_policy)) }),
        ("Timeout", parts::text(parts::millis(settings.timeout.ms().into()))),
        ("Signed as", html! { code { (settings.signature_scheme.as_str()) } }),
        ("Order", html! { code { (settings.flow.ordering.as_str()) } }),
    ];
    if let Some(rate) = settings.flow.rate {
        pairs.push(("Rate limit", html! { (rate.per_second()) " a second, bursts of " (rate.burst()) }));
    }
    if let Some(max) = settings.flow.max_in_flight {
        pairs.push(("Max in flight", parts::text(max.attempts())));
    }
    if let Some(filters) = settings.filters.to_value() {
        pairs.push(("Filters", html! { code { (filters) } }));
    }
    let headers = settings.headers.redacted();
    if !headers.is_empty() {
        pairs.push(("Headers", html! { @for (name, value) in &headers { code.tag { (name) ": " (value) } " " } }));
    }
    pairs.push(("Created", parts::time(visit, subscription.created_at)));
    pairs.push(("Changed", parts::time(visit, subscription.updated_at)));
    facts(&pairs)
}
