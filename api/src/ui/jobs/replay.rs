//! The form on a subscription's page that delivers a part of its past again.

use chrono::TimeDelta;
use maud::{Markup, html};
use postrider_core::{
    delivery::job::{
        self, Action, NewJob, RATE_DEFAULT, RATE_MAX,
        filter::{Filter, MatchedStatus},
    },
    event::idempotency::Creation,
    id::SubscriptionId,
    subscription::Subscription,
    validation::Problems,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries::filters::moment,
        fields::{Fields, query},
        page::{Next, Note, Visit},
        parts::panel,
    },
};

/// The form.
pub(crate) fn form(visit: &Visit, subscription: &Subscription) -> Markup {
    let since = (visit.now - TimeDelta::hours(24)).format("%Y-%m-%dT%H:%M");
    let until = visit.now.format("%Y-%m-%dT%H:%M");
    let all = html! {
        a href=(visit.to(format!("jobs{}", query([("subscription_id", subscription.id.to_string().as_str())])))) {
            "Its jobs"
        }
    };
    panel(
        "Deliver a part of the past again",
        &all,
        &html! {
            form.inline method="post" action=(visit.to(format!("subscriptions/{}/replay", subscription.id))) {
                div.field {
                    label for="since" { "Since (UTC)" }
                    input #since name="since" type="datetime-local" value=(since) required;
                }
                div.field {
                    label for="until" { "Until (UTC)" }
                    input #until name="until" type="datetime-local" value=(until);
                }
                div.field {
                    label for="rate_per_second" { "Deliveries a second" }
                    input #rate_per_second name="rate_per_second" type="number" min="1" max=(RATE_MAX)
                    value=(RATE_DEFAULT);
                }
                fieldset.ticks {
                    legend { "Events that were" }
                    @for (word, label, is_chosen) in [
                        ("missed", "missed", true), ("dead_letter", "dead letters", true),
                        ("canceled", "canceled", false), ("succeeded", "delivered", false),
                    ] {
                        label.tick {
                            input type="checkbox" name="statuses" value=(word) checked[is_chosen];
                            span { (label) }
                        }
                    }
                }
                button.button type="submit" { (visit.icon("history")) "Begin the replay" }
            }
        },
    )
}

/// Begins a replay, and shows it.
pub(crate) async fn begin(visit: &Visit, id: &str, form: &Fields) -> Result<Next, ApiError> {
    let id: SubscriptionId = visit.find(id).await?;
    let mut problems = Problems::default();
    let since = moment("since", form.get("since"), visit.now)?.unwrap_or(visit.now - TimeDelta::hours(24));
    let until = moment("until", form.get("until"), visit.now)?.map_or(visit.now, |until| until.min(visit.now));
    let words = form.all("statuses").map(|word| problems.take("statuses", word.parse::<MatchedStatus>()));
    let statuses: Vec<_> = words.collect::<Vec<_>>().into_iter().flatten().collect();
    problems.require(!statuses.is_empty(), "statuses", "must name at least one");
    let rate = form.get("rate_per_second").map_or(Ok(RATE_DEFAULT), |text| text.parse().map_err(|_| String::new()));
    let rate = rate.ok().filter(|rate| (1..=RATE_MAX).contains(rate));
    problems.require(rate.is_some(), "rate_per_second", format!("must be from 1 to {RATE_MAX}"));
    let filter = Filter { subscription: Some(id), statuses, since: Some(since), ..Filter::all(Action::Replay, until) };
    problems.add_part("", filter.problems(Action::Replay));
    if !problems.0.is_empty() {
        let why = Note::Refused(format!("No replay was begun: {problems}."));
        return Ok(Next::Go(format!("subscriptions/{id}"), why));
    }
    let new = NewJob { action: Action::Replay, filter, rate_per_second: rate };
    let app = &visit.app;
    let made = job::create(&app.pool, &app.keyring, visit.access.actor(), &new, None, |_| Vec::new()).await?;
    Ok(match made {
        Creation::Now(job) => Next::done(format!("jobs/{}", job.id), "The replay begins within a second."),
        // Only a request with an idempotency key gets an earlier answer, and a form has none.
        Creation::Before(_) => Next::done("jobs", "The replay was begun before."),
    })
}
