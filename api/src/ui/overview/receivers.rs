//! The receivers that fail, the one with the most failed attempts a minute first: why, since when, what was answered
//! last, and a button that pauses the deliveries to it.

use std::collections::HashMap;

use chrono::TimeDelta;
use maud::{Markup, html};
use postrider_core::{
    id::SubscriptionId,
    stats::damage::{self, Damage, Ranking},
    subscription::{
        State, Subscription,
        condition::{self, Condition},
    },
    tally::class::Class,
};
use uuid::Uuid;

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries::{host, name},
        fields::query,
        overview::ROWS,
        page::Visit,
        parts::{self, Button, Tone, Weight, panel},
        statistics::why,
        subscriptions::receiver,
    },
};

/// Receivers that are ranked, at most.
const RANKED_MAX: i64 = 10;
/// The span whose failures count.
const SPAN: TimeDelta = TimeDelta::minutes(10);
/// From so many failing receivers on, causes that they share mean something.
const SHARED_BY_MIN: usize = 5;

/// The ranking, and the subscriptions in it.
pub(super) struct Worst {
    ranking: Ranking,
    subscriptions: HashMap<SubscriptionId, std::sync::Arc<Subscription>>,
}

/// Reads who fails most.
pub(super) async fn read(visit: &Visit) -> Result<Worst, ApiError> {
    let tenant = visit.lists()?;
    let mut ranking = damage::rank(visit.pool(), tenant.as_deref(), SPAN, RANKED_MAX, visit.now).await?;
    let mut subscriptions = HashMap::new();
    for damage in &ranking.damages {
        if let Some(subscription) = visit.app.cache.get(damage.subscription).await? {
            subscriptions.insert(damage.subscription, subscription);
        }
    }
    // Those that were deleted meanwhile are of no interest.
    ranking.damages.retain(|damage| subscriptions.contains_key(&damage.subscription));
    Ok(Worst { ranking, subscriptions })
}

impl Worst {
    /// What most of the failing receivers have in common that is more likely a fault of this network than of theirs.
    pub(super) fn shared_cause(&self) -> Option<&'static str> {
        let all = self.ranking.damages.len();
        let share = |class| self.ranking.damages.iter().filter(|damage| damage.cause == class).count();
        let causes = [
            (Class::Dns, "the names of most failing receivers do not resolve"),
            (Class::Connect, "most failing receivers cannot be connected to"),
        ];
        let shared = causes.into_iter().find(|(class, _)| share(*class) * 5 >= all * 4);
        shared.filter(|_| all >= SHARED_BY_MIN).map(|(_, words)| words)
    }
}

/// The panel. `failing` are the receivers whose attempts all fail, also those that were not tried of late.
pub(super) async fn show(
    visit: &Visit,
    worst: &Result<Worst, ApiError>,
    failing: &Result<Vec<Subscription>, ApiError>,
) -> Markup {
    let more = html! {
        a href=(visit.to(format!("subscriptions{}", query([("sort", "failures")])))) { "By failures" }
        a href=(visit.to(format!("subscriptions{}", query([("failing", "true")])))) { "All that fail" }
    };
    let body = match (worst, failing) {
        (Err(error), _) | (_, Err(error)) => parts::trouble(visit, error),
        (Ok(worst), Ok(failing)) if worst.ranking.damages.is_empty() && failing.is_empty() => parts::empty(
            visit,
            "circle-check",
            "No receiver fails",
            &html! {
                p { "A receiver stands here while attempts at it fail." }
            },
        ),
        (Ok(worst), Ok(failing)) => table(visit, worst, failing).await,
    };
    panel("Failing receivers", &html! { span.links { (more) } }, &body)
}

async fn table(visit: &Visit, worst: &Worst, failing: &[Subscription]) -> Markup {
    let ranked = |one: &&Subscription| !worst.subscriptions.contains_key(&one.id);
    let rest: Vec<_> = failing.iter().filter(ranked).take(usize::try_from(ROWS).unwrap_or(0)).collect();
    let ids: Vec<Uuid> = worst.subscriptions.keys().map(|id| id.0).chain(rest.iter().map(|one| one.id.0)).collect();
    let conditions = condition::read(visit.pool(), &ids).await.unwrap_or_default();
    html! {
        table.cards {
            caption.unseen { "Failing receivers, the one with the most failed attempts a minute first" }
            thead {
                tr {
                    th scope="col" { "Receiver" }
                    th.number scope="col" { "Failed a minute" }
                    th scope="col" { "Cause" }
                    th scope="col" { "How it stands" }
                    @if visit.may_manage() { th scope="col" { span.unseen { "What can be done" } } }
                }
            }
            tbody {
                @for damage in &worst.ranking.damages {
                    @if let Some(subscription) = worst.subscriptions.get(&damage.subscription) {
                        (row(visit, subscription, Some((&worst.ranking, damage)), conditions.get(&subscription.id.0)))
                    }
                }
                @for subscription in rest { (row(visit, subscription, None, conditions.get(&subscription.id.0))) }
            }
        }
    }
}

fn row(
    visit: &Visit,
    subscription: &Subscription,
    damage: Option<(&Ranking, &Damage)>,
    condition: Option<&Condition>,
) -> Markup {
    let own = format!("subscriptions/{}", subscription.id);
    html! {
        tr {
            th scope="row" {
                a.open href=(visit.to(&own)) { (name(subscription)) }
                span.sub.clip {
                    (host(subscription))
                    @if visit.sees_all() { " · " (subscription.tenant_id) }
                }
            }
            td.number data-label="Failed a minute" {
                @match damage {
                    Some((ranking, damage)) => { (format!("{:.1}", ranking.per_minute(damage.failed, visit.now))) }
                    None => span.none { "–" },
                }
            }
            td data-label="Cause" {
                @match damage {
                    Some((_, damage)) => {
                        a href=(visit.to(format!("deliveries/{}", damage.delivery))) {
                            (why(damage.cause, damage.status_code))
                        }
                        span.sub { "last " (parts::distance(damage.last_at - visit.now)) }
                    }
                    None => span.sub { "not attempted in the last minutes" },
                }
            }
            td data-label="How it stands" { (stands(visit, subscription, damage.map(|(_, one)| one), condition)) }
            @if visit.may_manage() { td.do { (pause(visit, subscription)) } }
        }
    }
}

fn stands(
    visit: &Visit,
    subscription: &Subscription,
    damage: Option<&Damage>,
    condition: Option<&Condition>,
) -> Markup {
    let fails_wholly = condition.is_some_and(|condition| condition.failing_since.is_some());
    html! {
        @if subscription.state != State::Active { (parts::state(visit, subscription.state)) " " }
        @match damage {
            Some(damage) if !fails_wholly => {
                (parts::badge(visit, Tone::Warn, "circle-alert", "Fails now and then"))
                span.sub { "since " (parts::time(visit, damage.first_at)) ", or before" }
            }
            _ => { (receiver(visit, condition)) }
        }
    }
}

fn pause(visit: &Visit, subscription: &Subscription) -> Markup {
    let action = |word: &str| format!("subscriptions/{}/{word}", subscription.id);
    let button = |action, icon, word| Button { action, icon, word, weight: Weight::Usual }.form(visit);
    html! {
        @match subscription.state {
            State::Active => (button(action("pause"), "pause", "Pause")),
            State::Paused => (button(action("resume"), "play", "Resume")),
            State::Disabled => {},
        }
    }
}
