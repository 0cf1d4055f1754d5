//! Jobs: the list, and one with its progress. What is done with all that match is asked for in [`new`], and a replay of
//! a subscription's past in [`replay`].

pub(crate) mod new;
pub(crate) mod replay;

use maud::{Markup, html};
use postrider_core::{
    delivery::job::{
        self, Action, Job, RATE_MAX, State,
        filter::{Destinations, Filter, MatchedStatus},
    },
    id::{JobId, SubscriptionId},
};

use crate::{
    jobs::body::JobPatch,
    serve::{list::parsed, problem::ApiError},
    ui::{
        dead_letters::groups::cause,
        deliveries::name,
        fields::{Fields, query},
        page::{Next, Note, Page, Section, Visit},
        parts::{self, Button, Tone, Weight, facts, nothing, panel},
        rows::{Rows, window},
    },
};

/// The page with the list.
pub(crate) async fn page(visit: &Visit) -> Result<Page, ApiError> {
    let list = match list(visit).await {
        Ok(rows) => show(visit, &rows).await,
        Err(error) => parts::trouble(visit, &error),
    };
    let actions = html! {
        @if visit.may_manage() { a.button.main href=(visit.to("jobs/new")) { (visit.icon("plus")) "New job" } }
    };
    let body = html! {
        (parts::head(&parts::text("Jobs"), &html! {
            "What is done with many deliveries at once: retries, cancellations, replays, and dead letters that are "
            "dealt with."
        }, &actions))
        (chips(visit))
        section.panel #list { (list) }
    };
    Ok(Page::new(Section::Jobs, "Jobs", body))
}

fn chips(visit: &Visit) -> Markup {
    let fields = visit.query.with("cursor", None);
    let chosen = visit.query.get("state");
    let chip = |state: Option<State>, word: &str| {
        let state = state.map(State::as_str);
        let link = visit.with_query(&fields.with("state", state));
        html! { a href=(link) aria-current=[(chosen == state).then_some("true")] { (word) } }
    };
    html! {
        nav.chips aria-label="State" {
            (chip(None, "All"))
            (chip(Some(State::Running), "Running"))
            (chip(Some(State::Completed), "Completed"))
            (chip(Some(State::Canceled), "Canceled"))
        }
    }
}

async fn list(visit: &Visit) -> Result<Rows<Job>, ApiError> {
    let tenant = visit.lists()?;
    let subscription = visit.find_named("subscription_id").await?;
    let state = parsed::<State>("state", visit.query.get("state"))?;
    let window = window(visit, |id: JobId| id.0)?;
    let found = job::list(visit.pool(), tenant.as_deref(), subscription, state, window).await?;
    Ok(Rows::whole(found, |job| job.id.0))
}

async fn show(visit: &Visit, rows: &Rows<Job>) -> Markup {
    if rows.is_empty() && visit.is_filtered() {
        let all = html! { p { a.button href=(visit.to("jobs")) { (visit.icon("x")) "Show all" } } };
        return parts::empty(visit, "list-filter", "No job matches", &all);
    }
    if rows.is_empty() {
        return parts::empty(
            visit,
            "list-checks",
            "No jobs yet",
            &html! {
                p { "After an outage of a receiver, a job retries or replays everything that it has missed." }
                p { a.button href=(visit.to("dead-letters")) { "Look at the dead letters" } }
            },
        );
    }
    html! {
        table.cards {
            caption.unseen { "Jobs" }
            thead {
                tr {
                    th scope="col" { "State" }
                    th scope="col" { "Job" }
                    th scope="col" { "Of what" }
                    th scope="col" { "Progress" }
                    th.number scope="col" { "Done" }
                    th scope="col" { "Asked for" }
                }
            }
            tbody {
                @for one in &rows.items {
                    tr {
                        td { (state(visit, one.state)) }
                        th scope="row" {
                            a.open href=(visit.to(format!("jobs/{}", one.id))) { (word(one.action)) }
                            span.sub.mono { (parts::short(one.id)) }
                        }
                        td data-label="Of what" {
                            (statuses(&one.filter))
                            span.sub.clip { (scope(visit, &one.filter).await) }
                        }
                        td data-label="Progress" { (progress(one)) }
                        td.number data-label="Done" { (parts::count(one.done_count)) }
                        td data-label="Asked for" { (parts::time(visit, one.created_at)) }
                    }
                }
            }
        }
        (rows.foot(visit, JobId::PREFIX, "jobs"))
    }
}

/// The word for an action, as it stands on a button.
pub(crate) fn word(action: Action) -> &'static str {
    match action {
        Action::Retry => "Retry",
        Action::Cancel => "Cancel",
        Action::Replay => "Replay",
        Action::Resolve => "Resolve",
        Action::Purge => "Purge",
    }
}

/// The icon of an action.
pub(crate) fn symbol(action: Action) -> &'static str {
    match action {
        Action::Retry => "rotate-cw",
        Action::Cancel => "ban",
        Action::Replay => "history",
        Action::Resolve => "check",
        Action::Purge => "x",
    }
}

fn state(visit: &Visit, state: State) -> Markup {
    match state {
        State::Running => parts::badge(visit, Tone::Info, "loader-circle", "Running"),
        State::Completed => parts::badge(visit, Tone::Ok, "circle-check", "Completed"),
        State::Canceled => parts::badge(visit, Tone::Plain, "ban", "Canceled"),
    }
}

fn progress(job: &Job) -> Markup {
    let percent = format!("{:.0} %", job.progress * 100.0);
    html! {
        span.progress {
            progress max="1" value=(job.progress) aria-label="The part of the rows that has been read" {}
            span { (percent) }
        }
    }
}

/// The statuses that a filter names, in words.
pub(crate) fn statuses(filter: &Filter) -> String {
    let word = |status: &MatchedStatus| match status {
        MatchedStatus::Pending => "pending",
        MatchedStatus::Succeeded => "succeeded",
        MatchedStatus::DeadLetter => "dead letters",
        MatchedStatus::Canceled => "canceled",
        MatchedStatus::Missed => "missed",
    };
    filter.statuses.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Statuses as texts; those that follow on each other as one, such as `500–599`.
fn spans(codes: &[i16]) -> Vec<String> {
    let mut sorted = codes.to_vec();
    sorted.sort_unstable();
    let spans = sorted.chunk_by(|one, next| *next <= one + 1).filter_map(|span| Some((*span.first()?, *span.last()?)));
    spans.map(|(first, last)| if first == last { first.to_string() } else { format!("{first}–{last}") }).collect()
}

/// Where the deliveries go that a filter means, and why they failed, in a few words.
async fn scope(visit: &Visit, filter: &Filter) -> String {
    let mut words = Vec::new();
    match (filter.subscription, filter.destinations) {
        (Some(id), _) => words.push(format!("to {}", receiver(visit, id).await)),
        (None, Destinations::Inline) => words.push("inline deliveries".to_owned()),
        (None, Destinations::All) => words.push("to every receiver".to_owned()),
    }
    words.extend(spans(&filter.status_codes));
    words.extend(filter.error_kinds.iter().filter(|kind| *kind != "http_status").map(|kind| cause(kind).to_owned()));
    words.extend(filter.event_types.to_texts());
    words.join(" · ")
}

async fn receiver(visit: &Visit, id: SubscriptionId) -> String {
    match visit.app.cache.get(id).await {
        Ok(Some(subscription)) => name(&subscription),
        Ok(None) | Err(_) => parts::short(id),
    }
}

/// What a filter says, as pairs of a name and a fact.
pub(crate) async fn filter_facts(visit: &Visit, filter: &Filter) -> Vec<(&'static str, Markup)> {
    let list = |texts: Vec<String>| html! { @for text in texts { code.tag { (text) } " " } };
    let mut pairs = vec![("Of what", parts::text(statuses(filter)))];
    if let Some(id) = filter.subscription {
        let link = visit.to(format!("subscriptions/{id}"));
        pairs.push(("Subscription", html! { a href=(link) { (receiver(visit, id).await) } }));
    }
    if filter.destinations == Destinations::Inline {
        pairs.push(("Where to", parts::text("URLs of inline deliveries only")));
    }
    if let Some(tenant) = filter.tenant_id.as_ref().filter(|_| visit.access.tenant().is_none()) {
        pairs.push(("Tenant", parts::text(tenant)));
    }
    if let Some(id) = filter.event {
        pairs.push(("Event", html! { a.mono href=(visit.to(format!("events/{id}"))) { (parts::short(id)) } }));
    }
    if let Some(id) = filter.job {
        pairs.push(("Made by", html! { a.mono href=(visit.to(format!("jobs/{id}"))) { (parts::short(id)) } }));
    }
    let types = filter.event_types.to_texts();
    if !types.is_empty() {
        pairs.push(("Event types", list(types)));
    }
    if let Some(metadata) = &filter.metadata {
        pairs.push(("Metadata", list(metadata.iter().map(|(key, value)| format!("{key}:{value}")).collect())));
    }
    if !filter.error_kinds.is_empty() {
        pairs.push(("Cause", list(filter.error_kinds.clone())));
    }
    if !filter.status_codes.is_empty() {
        pairs.push(("Answer", list(spans(&filter.status_codes))));
    }
    if let Some(since) = filter.since {
        pairs.push(("Since", parts::clock(visit, since)));
    }
    pairs.push(("Until", parts::clock(visit, filter.until)));
    if let Some(since) = filter.dead_since {
        pairs.push(("Given up since", parts::clock(visit, since)));
    }
    if let Some(until) = filter.dead_until {
        pairs.push(("Given up until", parts::clock(visit, until)));
    }
    pairs
}

/// The page of one job.
pub(crate) async fn one(visit: &Visit, id: &str) -> Result<Page, ApiError> {
    let job = job::get(visit.pool(), visit.find::<JobId>(id).await?).await?;
    let is_running = job.state == State::Running;
    let cancel =
        Button { action: format!("jobs/{}/cancel", job.id), icon: "ban", word: "Stop the job", weight: Weight::Usual };
    let warning = match job.action {
        Action::Replay => "No further delivery is made, and those of it that wait are canceled.",
        Action::Retry | Action::Cancel | Action::Resolve | Action::Purge => {
            "Nothing more is done. What it has done stays done."
        }
    };
    let actions = html! { @if is_running && visit.may_manage() { (cancel.behind(visit, warning)) } };
    let rate = job.rate_per_second.map_or_else(|| parts::text("no bound"), |rate| html! { (rate) " a second" });
    let mut pairs = vec![("Done", done(visit, &job)), ("Looked at", parts::text(parts::count(job.examined_count)))];
    if job.skipped_count > 0 {
        pairs.push(("Skipped", parts::text(parts::count(job.skipped_count))));
    }
    if job.failed_count > 0 {
        pairs.push(("Failed", parts::text(parts::count(job.failed_count))));
    }
    pairs.push(("Rate", rate));
    pairs.push(("Asked for", parts::time(visit, job.created_at)));
    if let Some(at) = job.finished_at {
        pairs.push(("Ended", parts::time(visit, at)));
    }
    let title = html! { (word(job.action)) " " (state(visit, job.state)) };
    let body = html! {
        div #live hx-get=[is_running.then(|| visit.to(&visit.path))] hx-trigger=[is_running.then_some("every 2s")]
            hx-select="#live" hx-swap="outerMorph" {
            (parts::head(&title, &parts::id(visit, job.id), &actions))
            (panel("How far it is", &nothing(), &html! {
                (progress(&job))
                (facts(&pairs))
                @if job.skipped_count > 0 {
                    p {
                        "Skipped ones match, but nothing could be done with them: somebody else was changing them, "
                        "their event or subscription is gone, or the subscription is disabled."
                    }
                }
                @if job.failed_count > 0 {
                    p { "The database refused to change the failed ones. The log of the workers says why." }
                }
            }))
            (panel("Which deliveries are meant", &nothing(), &facts(&filter_facts(visit, &job.filter).await)))
        }
        // It stands outside of what is refreshed, so that nobody loses what is being typed.
        @if is_running && visit.may_manage() { (panel("How fast it goes", &nothing(), &rate_form(visit, &job))) }
    };
    Ok(Page::new(Section::Jobs, "Job", body))
}

fn rate_form(visit: &Visit, job: &Job) -> Markup {
    let hint = match job.action {
        Action::Retry | Action::Replay => "100 where this is empty",
        Action::Cancel | Action::Resolve | Action::Purge => "no bound where this is empty",
    };
    html! {
        form.inline method="post" action=(visit.to(format!("jobs/{}/rate", job.id))) {
            div.field {
                label for="rate_per_second" { "Deliveries a second, 1 to " (RATE_MAX) }
                input #rate_per_second name="rate_per_second" type="number" min="1" max=(RATE_MAX)
                    value=[job.rate_per_second] placeholder=(hint) autocomplete="off";
            }
            button.button type="submit" { (visit.icon("timer")) "Change the rate" }
        }
    }
}

/// Changes the rate of a job.
pub(crate) async fn set_rate(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: JobId = visit.find(id).await?;
    let back = format!("jobs/{id}");
    let rate = parsed::<u32>("rate_per_second", form.get("rate_per_second"))
        .and_then(|rate_per_second| JobPatch { rate_per_second }.rate());
    let Ok(rate) = rate else {
        let why = format!("The rate stays as it is: it must be a whole number from 1 to {RATE_MAX}.");
        return Ok(Next::Go(back, Note::Refused(why)));
    };
    let job = job::set_rate(&visit.app.pool, visit.access.actor(), id, rate).await?;
    let said = job.rate_per_second.map_or_else(
        || "The job goes on without a bound.".to_owned(),
        |rate| format!("The job goes on with {rate} deliveries a second."),
    );
    Ok(Next::done(back, said))
}

/// How many it has done; for a replay, with the way to what it has made.
fn done(visit: &Visit, job: &Job) -> Markup {
    let count = parts::count(job.done_count);
    match job.action {
        Action::Replay => {
            let made = query([("job_id", job.id.to_string().as_str())]);
            html! { a href=(visit.to(format!("deliveries{made}"))) { (count) " deliveries" } }
        }
        Action::Retry | Action::Cancel | Action::Resolve | Action::Purge => html! { (count) " deliveries" },
    }
}

/// Stops a job.
pub(crate) async fn cancel(visit: &Visit, id: &str) -> Result<Next, ApiError> {
    let id: JobId = visit.find(id).await?;
    job::cancel(&visit.app.pool, visit.access.actor(), id).await?;
    Ok(Next::done(format!("jobs/{id}"), "The job is stopped."))
}
