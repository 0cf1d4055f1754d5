//! Replays of a range: the list, one with its progress, and the form that begins one.

use chrono::TimeDelta;
use maud::{Markup, html};
use postrider_core::{
    delivery::replay::{self, NewReplay, RATE_DEFAULT, RATE_MAX, Replay, ReplayedStatus, State},
    event::{event_type::EventTypePatterns, idempotency::Creation},
    id::{ReplayId, SubscriptionId},
    subscription::Subscription,
    validation::Problems,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries::{moment, name},
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
    let body = html! {
        (parts::head(&parts::text("Replays"), &html! {
            "Ranges of a subscription's past that are delivered again. One begins on the page of its subscription."
        }, &nothing()))
        section.panel #list { (list) }
    };
    Ok(Page::new(Section::Replays, "Replays", body))
}

async fn list(visit: &Visit) -> Result<Rows<Replay>, ApiError> {
    let tenant = visit.access.lists(visit.query.get("tenant_id"))?;
    let subscription = visit.find_named("subscription_id").await?;
    let window = window(visit, |id: ReplayId| id.0)?;
    let found = replay::list(visit.pool(), tenant.as_deref(), subscription, window).await?;
    Ok(Rows::whole(found, |replay| replay.id.0))
}

async fn show(visit: &Visit, rows: &Rows<Replay>) -> Markup {
    if rows.is_empty() {
        return parts::empty(
            visit,
            "history",
            "No replays yet",
            &html! {
                p { "After an outage of a receiver, a replay delivers what it has missed." }
                p { a.button href=(visit.to("subscriptions")) { "Choose a subscription" } }
            },
        );
    }
    html! {
        table.cards {
            caption.unseen { "Replays" }
            thead {
                tr {
                    th scope="col" { "State" }
                    th scope="col" { "Replay" }
                    th scope="col" { "Range" }
                    th scope="col" { "Progress" }
                    th.number scope="col" { "Made" }
                    th scope="col" { "Asked for" }
                }
            }
            tbody {
                @for one in &rows.items {
                    tr {
                        td { (state(visit, one.state)) }
                        th scope="row" {
                            a.open href=(visit.to(format!("replays/{}", one.id))) { (parts::short(one.id)) }
                            span.sub.clip { "to " (receiver(visit, one).await) }
                        }
                        td data-label="Range" {
                            (parts::clock(visit, one.since)) span.sub { "to " (parts::clock(visit, one.until)) }
                        }
                        td data-label="Progress" { (progress(one)) }
                        td.number data-label="Made" { (parts::count(one.replayed_count)) }
                        td data-label="Asked for" { (parts::time(visit, one.created_at)) }
                    }
                }
            }
        }
        (rows.foot(visit, ReplayId::PREFIX, "replays"))
    }
}

fn state(visit: &Visit, state: State) -> Markup {
    match state {
        State::Running => parts::badge(visit, Tone::Info, "loader-circle", "Running"),
        State::Completed => parts::badge(visit, Tone::Ok, "circle-check", "Completed"),
        State::Canceled => parts::badge(visit, Tone::Plain, "ban", "Canceled"),
    }
}

fn progress(replay: &Replay) -> Markup {
    let percent = format!("{:.0} %", replay.progress * 100.0);
    html! {
        span.progress {
            progress max="1" value=(replay.progress) aria-label="The part of the range that has been read" {}
            span { (percent) }
        }
    }
}

async fn receiver(visit: &Visit, replay: &Replay) -> String {
    match visit.app.cache.get(SubscriptionId(replay.subscription_id)).await {
        Ok(Some(subscription)) => name(&subscription),
        Ok(None) | Err(_) => parts::short(SubscriptionId(replay.subscription_id)),
    }
}

/// The page of one replay.
pub(crate) async fn one(visit: &Visit, id: &str) -> Result<Page, ApiError> {
    let replay = replay::get(visit.pool(), visit.find::<ReplayId>(id).await?).await?;
    let is_running = replay.state == State::Running;
    let subscription = SubscriptionId(replay.subscription_id);
    let cancel =
        Button { action: format!("replays/{}/cancel", replay.id), icon: "ban", word: "Cancel", weight: Weight::Usual };
    let actions = html! {
        @if is_running && visit.may_manage() {
            (cancel.behind(visit, "No further delivery is made, and those of it that wait are canceled."))
        }
    };
    let statuses: Vec<_> = replay.statuses.iter().map(ToString::to_string).collect();
    let types = replay.event_types.to_texts();
    let made = query([("replay_id", replay.id.to_string().as_str())]);
    let mut pairs = vec![
        (
            "Subscription",
            html! {
                a href=(visit.to(format!("subscriptions/{subscription}"))) { (receiver(visit, &replay).await) }
            },
        ),
        ("Since", parts::clock(visit, replay.since)),
        ("Until", parts::clock(visit, replay.until)),
        ("Of what", html! { @for status in &statuses { code.tag { (status) } " " } }),
        ("Event types", if types.is_empty() { parts::text("every type") } else { parts::text(types.join(", ")) }),
        ("Rate", html! { (replay.rate_per_second) " a second" }),
        ("Looked at", parts::text(parts::count(replay.examined_count))),
        (
            "Made",
            html! {
                a href=(visit.to(format!("deliveries{made}"))) { (parts::count(replay.replayed_count)) " deliveries" }
            },
        ),
        ("Asked for", parts::time(visit, replay.created_at)),
    ];
    if let Some(at) = replay.finished_at {
        pairs.push(("Ended", parts::time(visit, at)));
    }
    let body = html! {
        div #live hx-get=[is_running.then(|| visit.to(&visit.path))] hx-trigger=[is_running.then_some("every 2s")]
            hx-select="#live" hx-swap="outerMorph" {
            (parts::head(&html! { "Replay " (state(visit, replay.state)) }, &parts::id(visit, replay.id), &actions))
            (panel("How far it is", &nothing(), &html! { (progress(&replay)) (facts(&pairs)) }))
        }
    };
    Ok(Page::new(Section::Replays, "Replay", body))
}

/// The form on a subscription's page that begins a replay.
pub(crate) fn form(visit: &Visit, subscription: &Subscription) -> Markup {
    let since = (visit.now - TimeDelta::hours(24)).format("%Y-%m-%dT%H:%M");
    let until = visit.now.format("%Y-%m-%dT%H:%M");
    let all = html! {
        a href=(visit.to(format!("replays{}", query([("subscription_id", subscription.id.to_string().as_str())])))) {
            "Its replays"
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
    let since = moment("since", form.get("since"))?.unwrap_or(visit.now - TimeDelta::hours(24));
    let until = moment("until", form.get("until"))?.map_or(visit.now, |until| until.min(visit.now));
    problems.require(since < until, "since", "must be before the end, and in the past");
    let words = form.all("statuses").map(|word| problems.take("statuses", word.parse::<ReplayedStatus>()));
    let statuses: Vec<_> = words.collect::<Vec<_>>().into_iter().flatten().collect();
    problems.require(!statuses.is_empty(), "statuses", "must name at least one");
    let rate = form.get("rate_per_second").map_or(Ok(RATE_DEFAULT), |text| text.parse().map_err(|_| String::new()));
    let rate = rate.ok().filter(|rate| (1..=RATE_MAX).contains(rate));
    problems.require(rate.is_some(), "rate_per_second", format!("must be from 1 to {RATE_MAX}"));
    let back = format!("subscriptions/{id}");
    let Some(rate_per_second) = rate.filter(|_| problems.0.is_empty()) else {
        return Ok(Next::Go(back, Note::Refused(format!("No replay was begun: {problems}."))));
    };
    let event_types = EventTypePatterns::parse(&[])?;
    let new = NewReplay { subscription_id: id, since, until, event_types, statuses, rate_per_second };
    let app = &visit.app;
    let made = replay::create(&app.pool, &app.keyring, visit.access.actor(), &new, None, |_| Vec::new()).await?;
    Ok(match made {
        Creation::Now(replay) => Next::done(format!("replays/{}", replay.id), "The replay begins within a second."),
        // Only a request with an idempotency key gets an earlier answer, and a form has none.
        Creation::Before(_) => Next::done("replays", "The replay was begun before."),
    })
}

/// Cancels a replay.
pub(crate) async fn cancel(visit: &Visit, id: &str) -> Result<Next, ApiError> {
    let id: ReplayId = visit.find(id).await?;
    replay::cancel(&visit.app.pool, visit.access.actor(), id).await?;
    Ok(Next::done(format!("replays/{id}"), "The replay is canceled."))
}
