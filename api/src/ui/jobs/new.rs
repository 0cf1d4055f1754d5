//! What is to be done with all deliveries that match: they are counted, the visitor confirms, and a job begins. Lists
//! link here with the filter that they show.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use postrider_core::{
    access::api_key::Scope,
    delivery::{
        cause::Cause,
        job::{
            self, Action, NewJob, RATE_MAX,
            count::{Completeness, Count, count},
            filter::MatchedStatus,
        },
    },
    event::{idempotency::Creation, metadata::Metadata},
};

use crate::{
    jobs::body::{JobFilter, JobInput},
    serve::{
        list::{metadata, parsed},
        problem::ApiError,
    },
    ui::{
        deliveries::filters::{moment, pinned},
        fields::{Fields, query},
        jobs::{filter_facts, statuses, symbol, word},
        page::{Next, Note, Page, Section, Visit},
        parts::{self, facts, nothing, panel},
    },
};

/// The fields of a filter besides `statuses`, by their names in the API, with a word and a hint for people.
const FIELDS: [(&str, &str, &str, &str); 9] = [
    ("event_types", "Event type", "text", "order.*"),
    ("subscription_id", "Subscription", "text", "sub_…"),
    ("event_id", "Event", "text", "evt_…"),
    ("job_id", "Made by the job", "text", "job_…"),
    ("metadata", "Metadata", "text", "region:eu"),
    ("error_kinds", "Cause", "text", "timeout"),
    ("status_codes", "Answer", "number", "503"),
    ("since", "Since (UTC)", "datetime-local", ""),
    ("until", "Until (UTC)", "datetime-local", ""),
];
/// Fields of a filter that only links bring. The cause is that of the list of deliveries.
const HIDDEN: [&str; 5] = ["cause", "inline_only", "dead_since", "dead_until", "include_resolved"];

/// A button that leads to the page where something is done with all that match these fields.
pub(crate) fn link(visit: &Visit, action: Action, fields: &[(&str, &str)], label: &str) -> Markup {
    let fields = [("action", action.as_str())].into_iter().chain(fields.iter().copied());
    html! {
        a.button href=(visit.to(format!("jobs/new{}", query(fields)))) { (visit.icon(symbol(action))) (label) "…" }
    }
}

/// The page: what matches and a form that confirms, or, where no action is named, a form that asks what is meant.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    visit.require(Scope::Manage)?;
    let body = if visit.query.has("action") {
        let asked = match input(&visit.query, visit.now) {
            Ok(input) => input.parse(&visit.access, visit.pool(), visit.now).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(new) => counted(visit, &new).await,
            Err(error @ ApiError::NotFound(_)) => return Err(error),
            Err(error) => html! {
                (parts::head(&parts::text("New job"), &nothing(), &nothing()))
                section.panel { (parts::trouble(visit, &error)) }
                (panel("Which deliveries are meant", &nothing(), &choice(visit)))
            },
        }
    } else {
        html! {
            (parts::head(&parts::text("New job"), &html! {
                "Something is done with all deliveries that match. They are counted before anything begins."
            }, &nothing()))
            (panel("Which deliveries are meant", &nothing(), &choice(visit)))
        }
    };
    Ok(Page::new(Section::Jobs, "New job", body))
}

/// What matches, and the form that begins the job.
async fn counted(visit: &Visit, new: &NewJob) -> Markup {
    let counted = count(visit.pool(), new.action, &new.filter).await.map_err(ApiError::from);
    let is_nothing = matches!(&counted, Ok(Count { count: 0, completeness: Completeness::Exact }));
    let amount = match &counted {
        Ok(counted) => Some(amount(counted)),
        Err(_) => None,
    };
    let pairs = filter_facts(visit, &new.filter).await;
    html! {
        (parts::head(&html! { (word(new.action)) " all that match" }, &parts::text(meaning(new.action)), &nothing()))
        (panel("What matches", &nothing(), &html! {
            @match (&counted, &amount) {
                (Err(error), _) => (parts::trouble(visit, error)),
                (Ok(_), Some(amount)) => p.sentence { strong { (amount) } " deliveries match." },
                (Ok(_), None) => {},
            }
            (facts(&pairs))
            @if is_nothing {
                p { "Nothing can be done." }
            } @else {
                (confirmation(visit, new, amount.as_deref().unwrap_or("all that match")))
            }
        }))
        details.filters {
            summary { (visit.icon("list-filter")) "Change what is meant" }
            (choice(visit))
        }
    }
}

fn amount(counted: &Count) -> String {
    let count = parts::count(i64::try_from(counted.count).unwrap_or(i64::MAX));
    match counted.completeness {
        Completeness::Exact => count,
        Completeness::AtLeast => format!("at least {count}"),
    }
}

/// What will happen, in a sentence.
fn meaning(action: Action) -> &'static str {
    match action {
        Action::Retry => "Finished deliveries get a fresh round of attempts, and pending ones are due now.",
        Action::Cancel => "Pending deliveries are called off. Those that a worker is attempting are left alone.",
        Action::Replay => "Each event is delivered again, as a new delivery. The old ones stay.",
        Action::Resolve => "Dead letters are marked as resolved. Their deliveries stay given up.",
        Action::Purge => "Dead letters are taken off the list. Their deliveries stay until retention removes them.",
    }
}

/// Whether the visitor types the action's word, because nothing undoes it.
fn is_typed(action: Action) -> bool {
    match action {
        Action::Cancel | Action::Purge => true,
        Action::Retry | Action::Replay | Action::Resolve => false,
    }
}

fn confirmation(visit: &Visit, new: &NewJob, amount: &str) -> Markup {
    let action = new.action;
    // What comes to be after the count is not meant, and a span that begins an hour ago begins where it was counted.
    let until = new.filter.until.to_rfc3339();
    let fields = pinned(&visit.query, visit.now).with("until", Some(&until));
    let fields = fields.with("rate_per_second", None).with("back", None);
    html! {
        form.inline method="post" action=(visit.to("jobs")) {
            (parts::back(visit))
            @for (name, value) in fields.pairs() { input type="hidden" name=(name) value=(value); }
            @if let Some(rate) = new.rate_per_second {
                div.field {
                    label for="rate_per_second" { "Deliveries a second" }
                    input #rate_per_second name="rate_per_second" type="number" min="1" max=(RATE_MAX) value=(rate)
                        required;
                }
            }
            @if is_typed(action) {
                div.field {
                    label for="confirm" { "Type “" (action) "” to confirm" }
                    input #confirm name="confirm" type="text" required pattern=(action) autocomplete="off";
                }
            }
            button.button.danger[is_typed(action)].main[!is_typed(action)] type="submit" {
                (visit.icon(symbol(action))) (word(action)) " " (amount)
            }
        }
    }
}

/// The form that asks what is meant.
fn choice(visit: &Visit) -> Markup {
    let fields = &visit.query;
    let chosen: Vec<_> = fields.all("statuses").collect();
    let action = fields.get("action").unwrap_or(Action::Retry.as_str());
    html! {
        form.inline method="get" action=(visit.to("jobs/new")) {
            div.field {
                label for="action" { "What is done" }
                select #action name="action" {
                    @for one in Action::ALL {
                        option value=(one) selected[one.as_str() == action] { (word(one)) }
                    }
                }
            }
            @for (name, label, kind, hint) in FIELDS { (parts::filter(fields, name, label, kind, hint)) }
            @if visit.access.tenant().is_none() { (parts::filter(fields, "tenant_id", "Tenant", "text", "acme")) }
            fieldset.ticks {
                legend { "Deliveries that are" }
                @for (status, label) in [
                    (MatchedStatus::Pending, "pending"), (MatchedStatus::DeadLetter, "dead letters"),
                    (MatchedStatus::Canceled, "canceled"), (MatchedStatus::Succeeded, "succeeded"),
                    (MatchedStatus::Missed, "missed"),
                ] {
                    label.tick {
                        input type="checkbox" name="statuses" value=(status) checked[chosen.contains(&status.as_str())];
                        span { (label) }
                    }
                }
            }
            @for name in HIDDEN {
                @if let Some(value) = fields.get(name) { input type="hidden" name=(name) value=(value); }
            }
            button.button type="submit" { (visit.icon("search")) "Count them" }
        }
    }
}

/// What the fields of an address or of a form ask for.
fn input(fields: &Fields, now: DateTime<Utc>) -> Result<JobInput, ApiError> {
    let list = |name: &'static str| fields.all(name).map(|text| text.trim().to_owned()).collect::<Vec<_>>();
    let text = |name: &'static str| fields.get(name).map(str::to_owned);
    let number =
        |field: &str, text: &str| text.trim().parse().map_err(|_| ApiError::invalid(field, "must be a whole number"));
    let codes = fields.all("status_codes").map(|code| number("status_codes", code));
    let codes: Vec<u32> = codes.collect::<Result<_, _>>()?;
    let time = |name: &'static str| moment(name, fields.get(name), now);
    let cause: Option<Cause> = parsed("cause", fields.get("cause"))?;
    let mut kinds = list("error_kinds");
    let mut codes: Vec<_> = codes.into_iter().map(|code| u16::try_from(code).unwrap_or(u16::MAX)).collect();
    if let Some(cause) = cause {
        if !kinds.is_empty() || !codes.is_empty() {
            return Err(ApiError::invalid("cause", "cannot be combined with other causes and answers"));
        }
        kinds = cause.error_kinds();
        codes = cause.status_codes().unwrap_or_default().into_iter().map(i16::unsigned_abs).collect();
    }
    let filter = JobFilter {
        tenant_id: text("tenant_id"),
        subscription_id: text("subscription_id"),
        event_id: text("event_id"),
        job_id: text("job_id"),
        statuses: list("statuses"),
        event_types: list("event_types"),
        metadata: metadata(list("metadata"))?.map(Metadata::into_entries).unwrap_or_default(),
        status_codes: codes,
        error_kinds: kinds,
        inline_only: Some(fields.has("inline_only")),
        since: time("since")?,
        until: time("until")?,
        dead_since: time("dead_since")?,
        dead_until: time("dead_until")?,
        include_resolved: Some(fields.has("include_resolved")),
    };
    let rate_per_second = fields.get("rate_per_second").map(|rate| number("rate_per_second", rate)).transpose()?;
    Ok(JobInput { action: fields.text("action").to_owned(), filter, rate_per_second })
}

/// Begins a job, and shows it.
pub(crate) async fn create(visit: &Visit, form: &Fields) -> Result<Next, ApiError> {
    let new = input(form, visit.now)?.parse(&visit.access, visit.pool(), visit.now).await?;
    if is_typed(new.action) && form.get("confirm") != Some(new.action.as_str()) {
        let back = format!("jobs/new{}", form.with("confirm", None).with("back", None).query());
        let why = Note::Refused(format!("Nothing was done: type “{}” to confirm.", new.action));
        return Ok(Next::Go(back, why));
    }
    let app = &visit.app;
    let made = job::create(&app.pool, &app.keyring, visit.access.actor(), &new, None, |_| Vec::new()).await?;
    Ok(match made {
        Creation::Now(job) => {
            let what = format!("{} of {} begins within a second.", word(new.action), statuses(&job.filter));
            Next::done(format!("jobs/{}", job.id), what)
        }
        // Only a request with an idempotency key gets an earlier answer, and a form has none.
        Creation::Before(_) => Next::done("jobs", "The job was begun before."),
    })
}
