//! One subscription: how its receiver fares, its deliveries, its settings, its secrets, and what can be done with it.

pub(crate) mod changes;
pub(crate) mod sample;
pub(crate) mod settings;
pub(crate) mod signing;
pub(crate) mod tester;
mod verification;

use maud::{Markup, html};
use postrider_core::{
    id::SubscriptionId,
    subscription::{
        State, StateChange, Subscription,
        health::{self, COUNTED_MAX, Health},
        hold::Hold,
    },
};

use crate::{
    serve::problem::ApiError,
    ui::{
        deliveries::{self, filters::chips, name},
        fields::{Fields, is_own_path},
        jobs,
        page::{Next, Page, Section, Undo, Visit},
        parts::{self, Button, Tone, Weight, facts, nothing, panel},
        statistics,
    },
};

/// The tabs of a subscription's pages: the end of the path, and the word.
const TABS: [(&str, &str); 5] = [
    ("", "Overview"),
    ("/deliveries", "Deliveries"),
    ("/settings", "Settings"),
    ("/signing", "Signing"),
    ("/try", "Try"),
];
/// The tab for those who may see the audit log.
const AUDIT_TAB: (&str, &str) = ("/audit", "Audit");

/// The field of an address that names what follows a change of the state.
const THEN: &str = "then";

/// Reads the subscription whose id stands in the path.
async fn read(visit: &Visit, id: &str) -> Result<Subscription, ApiError> {
    Ok(visit.subscriptions().get(visit.find::<SubscriptionId>(id).await?).await?)
}

/// The overview.
pub(crate) async fn page(visit: &Visit, id: &str) -> Result<Page, ApiError> {
    let subscription = read(visit, id).await?;
    let health = health::read(visit.pool(), subscription.id).await.map_err(ApiError::from);
    let health = match &health {
        Ok(health) => show(visit, &subscription, health),
        Err(error) => parts::trouble(visit, error),
    };
    let content = html! {
        div #live hx-get=(visit.here()) hx-trigger="every 5s" hx-select="#live" hx-swap="outerMorph" {
            (health)
            (statistics::numbers(visit, Some(subscription.id)).await)
            (statistics::causes(visit, Some(subscription.id)).await)
        }
        (statistics::hours::map(visit, subscription.id).await)
        (panel("What it is", &nothing(), &settings::summary(visit, &subscription)))
        @if visit.may_manage() { (jobs::replay::form(visit, &subscription)) }
    };
    Ok(framed(visit, &subscription, "", &content))
}

/// The deliveries.
pub(crate) async fn deliveries(visit: &Visit, id: &str) -> Result<Page, ApiError> {
    let subscription = read(visit, id).await?;
    let list = match deliveries::list(visit, Some(subscription.id)).await {
        Ok(rows) => deliveries::show(visit, &rows, "Deliveries of this subscription", &nothing()).await,
        Err(error) => parts::trouble(visit, &error),
    };
    let content = html! { (chips(visit, &visit.path)) section.panel #list { (list) } };
    Ok(framed(visit, &subscription, "/deliveries", &content))
}

/// A page of a subscription: its head, its tabs, and the content of one of them.
pub(crate) fn framed(visit: &Visit, subscription: &Subscription, tab: &str, content: &Markup) -> Page {
    let title = name(subscription);
    let own = format!("subscriptions/{}", subscription.id);
    let head = parts::head(
        &html! { (title) " " (parts::state(visit, subscription.state)) },
        &html! {
            span.mono.clip { (subscription.settings.target_url.as_str()) } " · " (parts::id(visit, subscription.id))
        },
        &actions(visit, subscription),
    );
    let body = html! {
        (head)
        @if let Some(reason) = &subscription.disabled_reason {
            div.note.warn { (visit.icon("circle-alert")) p { "Postrider has disabled it: " (reason) } }
        }
        nav.tabs aria-label="Parts of this subscription" {
            @for (end, word) in TABS.iter().chain(visit.may_administer().then_some(&AUDIT_TAB)) {
                a href=(visit.to(format!("{own}{end}"))) aria-current=[(*end == tab).then_some("page")] { (word) }
            }
        }
        (content)
    };
    Page::new(Section::Subscriptions, title, body)
}

fn actions(visit: &Visit, subscription: &Subscription) -> Markup {
    if !visit.may_manage() {
        return nothing();
    }
    let button = |action: &str, icon, word, weight| Button {
        action: format!("subscriptions/{}/{action}", subscription.id),
        icon,
        word,
        weight,
    };
    let disable = button("disable", "power-off", "Disable", Weight::Usual).behind(
        visit,
        "New events are stored without deliveries for it. What waits goes on waiting until it is enabled.",
    );
    html! {
        @match subscription.state {
            State::Active => { (button("pause", "pause", "Pause", Weight::Usual).form(visit)) (disable) }
            State::Paused => { (button("resume", "play", "Resume", Weight::Main).form(visit)) (disable) }
            State::Disabled => { (button("enable", "power", "Enable", Weight::Main).form(visit)) }
        }
    }
}

fn show(visit: &Visit, subscription: &Subscription, health: &Health) -> Markup {
    let waiting = &health.waiting;
    let mark = if waiting.is_more { "+" } else { "" };
    let tile = |word: &str, number: i64, say: Markup| {
        html! {
            div.tile {
                p.word { (word) }
                p.figure { (parts::count(number)) @if number >= COUNTED_MAX { (mark) } }
                p.sub { (say) }
            }
        }
    };
    let oldest = health.oldest_due_at.map_or_else(
        || parts::text("nothing waits for a worker"),
        |at| html! { "the first for " (parts::span(visit.now - at)) },
    );
    let next = match health.next_attempt_at {
        Some(at) if at > visit.now => html! { "the next " (parts::distance(at - visit.now)) },
        Some(_) => parts::text("the next is about to begin"),
        None => parts::text("none is planned"),
    };
    let mut pairs = Vec::new();
    if let Some(circuit) = &health.circuit {
        let until = circuit.next_probe_at.map(|at| html! { ", tried again " (parts::distance(at - visit.now)) });
        pairs.push((
            "Circuit",
            html! {
                (parts::circuit(visit, circuit.state))
                span.sub {
                    (circuit.failures_in_a_row) @if circuit.failures_in_a_row == 1 { " failure" } @else { " failures" }
                    " in a row" (until.unwrap_or_else(nothing))
                }
            },
        ));
    } else {
        pairs.push(("Circuit", parts::text("switched off")));
    }
    pairs.push(("Held by", holds(visit, &health.held_by)));
    pairs.push(("Last success", parts::maybe_time(visit, health.last_success_at)));
    let last_failure = health.last_failure.as_ref().map(|failure| {
        html! {
            (parts::time(visit, failure.at)) " "
            @match failure.status_code {
                Some(code) => { span.code data-class=(code / 100) { (code) } }
                None => { code { (failure.error_kind) } }
            }
        }
    });
    pairs.push(("Last failure", last_failure.unwrap_or_else(|| html! { span.none { "–" } })));
    if let Some(since) = health.failing_since {
        pairs.push(("Failing", html! {
            (parts::badge(visit, Tone::Bad, "circle-x", "Every attempt fails")) " since " (parts::time(visit, since))
        }));
    }
    let dead = visit.to(format!("dead-letters?subscription_id={}", subscription.id));
    html! {
        div.tiles {
            (tile("Due", waiting.due, oldest))
            (tile("Scheduled", waiting.scheduled, next))
            (tile("In flight", waiting.in_flight, parts::text("being attempted now")))
        }
        (panel("How its receiver fares", &html! { a href=(dead) { "Dead letters" } }, &facts(&pairs)))
    }
}

/// All reasons for which deliveries wait, as badges.
pub(crate) fn holds(visit: &Visit, holds: &[Hold]) -> Markup {
    html! {
        @if holds.is_empty() { span.sub { "nothing" } }
        @for hold in holds { (held(visit, *hold)) " " }
    }
}

/// A reason for which deliveries wait.
pub(crate) fn held(visit: &Visit, hold: Hold) -> Markup {
    let (tone, symbol, word) = match hold {
        Hold::Paused => (Tone::Warn, "circle-pause", "Paused or disabled"),
        Hold::RetryAfter => (Tone::Warn, "hourglass", "Asked to wait"),
        Hold::Circuit => (Tone::Bad, "unplug", "Circuit"),
        Hold::RateLimit => (Tone::Info, "timer", "Rate limit"),
        Hold::MaxInFlight => (Tone::Info, "activity", "Max in flight"),
    };
    parts::badge(visit, tone, symbol, word)
}

/// Pauses, resumes, disables or enables a subscription.
pub(crate) async fn set_state(visit: &Visit, id: &str, change: &str, form: &Fields) -> Result<Next, ApiError> {
    let pauses_again = change == "enable" && visit.query.get(THEN) == Some("pause");
    let (change, sentence) = match change {
        "pause" => (StateChange::Pause, "It is paused. Its deliveries wait until it is resumed."),
        "resume" => (StateChange::Resume, "It is active again. What has been waiting is delivered."),
        "disable" => (StateChange::Disable, "It is disabled. New events are stored without deliveries for it."),
        "enable" if pauses_again => {
            (StateChange::Enable, "It is paused again. Its deliveries wait until it is resumed.")
        }
        "enable" => (StateChange::Enable, "It is active again. A replay delivers what it has missed."),
        _ => return Err(ApiError::not_found("page")),
    };
    let id: SubscriptionId = visit.find(id).await?;
    let before = visit.app.subscriptions.get(id).await?.state;
    let actor = visit.access.actor();
    let mut changed = visit.app.subscriptions.set_state(actor, id, change).await?;
    if pauses_again {
        changed = visit.app.subscriptions.set_state(actor, id, StateChange::Pause).await?;
    }
    visit.app.forget(&changed).await;
    let named = form.get("back").filter(|path| is_own_path(path));
    let back = named.map_or_else(|| format!("subscriptions/{id}"), str::to_owned);
    Ok(match opposite(before, changed.state) {
        Some(undo) => Next::undoable(back, sentence, Undo::by(format!("subscriptions/{id}/{undo}"))),
        None => Next::done(back, sentence),
    })
}

/// The change that leads from one state back to the one before; `None` where nothing was changed.
fn opposite(before: State, now: State) -> Option<String> {
    match (before, now) {
        (State::Active, State::Paused) => Some("resume".to_owned()),
        (State::Active, State::Disabled) => Some("enable".to_owned()),
        (State::Paused, State::Active) => Some("pause".to_owned()),
        (State::Paused, State::Disabled) => Some(format!("enable?{THEN}=pause")),
        (State::Disabled, State::Active | State::Paused) => Some("disable".to_owned()),
        (State::Active, State::Active) | (State::Paused, State::Paused) | (State::Disabled, State::Disabled) => None,
    }
}

/// Deletes a subscription.
pub(crate) async fn delete(visit: &Visit, id: &str) -> Result<Next, ApiError> {
    let id: SubscriptionId = visit.find(id).await?;
    let deleted = visit.app.subscriptions.delete(visit.access.actor(), id).await?;
    visit.app.forget(&deleted).await;
    Ok(Next::done("subscriptions", format!("The subscription {} is deleted.", name(&deleted))))
}
