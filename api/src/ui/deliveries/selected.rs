//! Rows of a list that are ticked, and what is done with all of them at once. The boxes belong to a form below the
//! table, so it needs no script; a script only hides the form while nothing is ticked.

use std::collections::BTreeMap;

use maud::{Markup, html};
use postrider_core::{
    delivery::{
        self, Delivery, Status,
        dead_letter::{self, Marked},
        job::Action,
        replay_now,
    },
    id::DeliveryId,
};

use crate::{
    serve::problem::ApiError,
    ui::{
        fields::{Fields, is_own_path},
        jobs::{symbol, word},
        page::{Next, Note, Undo, Visit},
        parts,
    },
};

/// The id of the form to which the boxes belong.
const FORM: &str = "selected";
/// Deliveries with which something is done at once, at most: the rows of a page, and some more. A job does more.
const SELECTED_MAX: usize = 100;

/// The action that takes back what [`Action::Resolve`] has done.
const UNRESOLVE: &str = "unresolve";

/// What is done with each of several deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// What is offered below a list.
    Offered(Action),
    /// The marks of dead letters are taken back. The note after a form that has set them offers it.
    Unresolve,
}

/// Whether rows of a table can be ticked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticks {
    Shown,
    None,
}

impl Ticks {
    /// Rows of a list of this status can be ticked by those who may do something with them.
    pub(crate) fn of(visit: &Visit, status: Option<Status>) -> Self {
        if visit.may_manage() && !offered(status).is_empty() { Self::Shown } else { Self::None }
    }
}

/// The head of the column of boxes. Only a script can tick all of them with one.
pub(crate) fn head(ticks: Ticks) -> Markup {
    html! {
        @if ticks == Ticks::Shown {
            th.pick scope="col" {
                span.unseen { "Selected" }
                input.only-script #select-all type="checkbox" aria-label="Select all rows of this page";
            }
        }
    }
}

/// The box of a row.
pub(crate) fn cell(ticks: Ticks, delivery: &Delivery) -> Markup {
    let what = delivery.event_type.as_deref().unwrap_or("a delivery");
    html! {
        @if ticks == Ticks::Shown {
            td.pick {
                input type="checkbox" name="id" value=(delivery.id) form=(FORM) autocomplete="off"
                    aria-label=(format!("Select {what}, {}", parts::short(delivery.id)));
            }
        }
    }
}

/// What can be done with ticked rows of a list of this status; of any status, where it is `None`.
fn offered(status: Option<Status>) -> &'static [Action] {
    match status {
        None => &[Action::Retry, Action::Replay, Action::Resolve, Action::Cancel],
        Some(Status::Pending) => &[Action::Retry, Action::Cancel],
        Some(Status::DeadLetter) => &[Action::Retry, Action::Replay, Action::Resolve],
        Some(Status::Succeeded | Status::Canceled) => &[Action::Replay, Action::Retry],
        // A worker is attempting them, so nothing can be done with them.
        Some(Status::InFlight) => &[],
    }
}

/// The form below the table. `all` are the links that lead to a job for all that match.
pub(crate) fn bar(visit: &Visit, status: Option<Status>, all: &Markup) -> Markup {
    let button = |action: Action, class: &str| {
        html! {
            button class=(class) type="submit" name="action" value=(action) {
                (visit.icon(symbol(action))) (word(action))
            }
        }
    };
    html! {
        @if Ticks::of(visit, status) == Ticks::Shown {
            form.selection id=(FORM) method="post" action=(visit.to("deliveries/selected")) {
                (parts::back(visit))
                p #selection-count { "With those that are ticked:" }
                div.actions {
                    @for action in offered(status) {
                        @match action {
                            Action::Cancel => details.sure {
                                summary.button { (visit.icon(symbol(*action))) (word(*action)) "…" }
                                div.card {
                                    p { "They are not attempted any more. They can be retried later all the same." }
                                    (button(*action, "button danger"))
                                }
                            },
                            Action::Retry | Action::Replay | Action::Resolve | Action::Purge => {
                                (button(*action, "button"))
                            },
                        }
                    }
                }
                @if !all.0.is_empty() {
                    div.all-that-match hidden { p { "These are all rows of this page. With all that match:" } (all) }
                }
            }
        }
    }
}

/// Does what the form asks for, with one delivery after the other. What cannot be done with one does not keep it from
/// the others; where the database is busy, it ends.
pub(crate) async fn act(visit: &Visit, form: &Fields) -> Result<Next, ApiError> {
    let back = form.get("back").filter(|path| is_own_path(path)).unwrap_or("deliveries").to_owned();
    let deed = if visit.query.get("action") == Some(UNRESOLVE) {
        Deed::Unresolve
    } else {
        Deed::Offered(form.text("action").parse().map_err(|why| ApiError::invalid("action", why))?)
    };
    let ids: Vec<_> = form.all("id").collect();
    if ids.is_empty() || ids.len() > SELECTED_MAX {
        let why = if ids.is_empty() { "nothing was ticked".to_owned() } else { format!("at most {SELECTED_MAX}") };
        return Ok(Next::Go(back, Note::Refused(format!("Not done: {why}."))));
    }
    let (mut done, mut left) = (Vec::new(), BTreeMap::<String, usize>::new());
    for (place, id) in ids.iter().enumerate() {
        match one(visit, deed, id).await {
            Ok((id, Marked::Now)) => done.push(id),
            Ok((_, Marked::Before)) => *left.entry("marked as resolved before".to_owned()).or_default() += 1,
            Err(error) => {
                let problem = error.problem();
                let is_end = problem.status() >= 500;
                *left.entry(problem.detail().to_owned()).or_default() += if is_end { ids.len() - place } else { 1 };
                if is_end {
                    break;
                }
            }
        }
    }
    let left = left.iter().map(|(why, count)| format!("{count} left alone: {why}."));
    let sentence = std::iter::once(told(deed, done.len())).chain(left).collect::<Vec<_>>().join(" ");
    if done.is_empty() {
        return Ok(Next::Go(back, Note::Refused(sentence)));
    }
    Ok(match deed {
        Deed::Offered(Action::Resolve) => {
            let path = format!("deliveries/selected?action={UNRESOLVE}");
            Next::undoable(back, sentence, Undo { path, deliveries: done })
        }
        Deed::Offered(Action::Retry | Action::Cancel | Action::Replay | Action::Purge) | Deed::Unresolve => {
            Next::done(back, sentence)
        }
    })
}

/// Does it with one delivery. Only a mark of a dead letter can have been there before; anything else is done now.
async fn one(visit: &Visit, deed: Deed, id: &str) -> Result<(DeliveryId, Marked), ApiError> {
    let id: DeliveryId = visit.find(id).await?;
    let (pool, keyring) = (&visit.app.pool, &visit.app.keyring);
    match deed {
        Deed::Offered(Action::Retry) => delivery::retry(pool, id).await.map(drop)?,
        Deed::Offered(Action::Cancel) => delivery::cancel(pool, id).await.map(drop)?,
        Deed::Offered(Action::Resolve) => return Ok((id, dead_letter::resolve(pool, id).await?.1)),
        Deed::Offered(Action::Replay) => {
            replay_now::of_delivery(pool, keyring, id, None, |_| Vec::new()).await.map(drop)?;
        }
        Deed::Offered(Action::Purge) => return Err(ApiError::invalid("action", "cannot be done one by one")),
        Deed::Unresolve => dead_letter::unresolve(pool, id).await.map(drop)?,
    }
    Ok((id, Marked::Now))
}

fn told(deed: Deed, done: usize) -> String {
    let what = if done == 1 { "1 delivery".to_owned() } else { format!("{done} deliveries") };
    let verb = match (deed, done) {
        (Deed::Offered(Action::Retry), 1) => "is attempted again now",
        (Deed::Offered(Action::Retry), _) => "are attempted again now",
        (Deed::Offered(Action::Cancel), 1) => "is canceled",
        (Deed::Offered(Action::Cancel), _) => "are canceled",
        (Deed::Offered(Action::Replay), 1) => "is replayed as a fresh one",
        (Deed::Offered(Action::Replay), _) => "are replayed as fresh ones",
        (Deed::Offered(Action::Resolve | Action::Purge), 1) => "is marked as resolved",
        (Deed::Offered(Action::Resolve | Action::Purge), _) => "are marked as resolved",
        (Deed::Unresolve, 1) => "waits for a decision again",
        (Deed::Unresolve, _) => "wait for a decision again",
    };
    format!("{what} {verb}.")
}
