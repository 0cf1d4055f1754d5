//! Operations and what came of them, in the few words that a person needs who reads the way of a case that failed.

use std::fmt::{Display, Formatter, Result};

use uuid::Uuid;

use crate::lane_model::operation::{Operation, Output};

/// The end of an id, by which a person tells it from others.
fn short(id: &Uuid) -> String {
    let text = id.simple().to_string();
    text[text.len() - 6..].to_owned()
}

fn list<'a>(ids: impl IntoIterator<Item = &'a Uuid>) -> String {
    ids.into_iter().map(short).collect::<Vec<_>>().join(" ")
}

impl Display for Operation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Accept { events } => {
                write!(f, "accept")?;
                for event in events {
                    let later = event.deliver_at.map(|at| format!(" for {}", at.format("%M:%S%.3f")));
                    for delivery in &event.deliveries {
                        let (id, lane) = (short(&delivery.id.0), short(&delivery.subscription_id.0));
                        write!(f, " {id} in {lane}{}", later.as_deref().unwrap_or_default())?;
                    }
                }
                Ok(())
            }
            Self::AcceptInline { event, id, .. } => {
                let later = event.deliver_at.map(|at| format!(" for {}", at.format("%M:%S%.3f")));
                write!(f, "accept inline {}{}", short(&id.0), later.unwrap_or_default())
            }
            Self::Claim { look } => {
                let from = look.lanes_from.map(|from| from.format("%M:%S%.6f").to_string());
                let from = from.as_deref().unwrap_or("the beginning");
                write!(f, "claim {} of {} lanes but [{}] from {from}", look.rows_max, look.lanes_max, list(&look.skip))
            }
            Self::Record { reports } => {
                write!(f, "record")?;
                for report in reports {
                    write!(f, " {} {:?}", short(&report.delivery_id), report.disposition)?;
                }
                Ok(())
            }
            Self::Wake { unsent } => {
                let (took, left_alone) = (unsent.took, list(unsent.left_alone.keys()));
                write!(f, "wake, armed: {} in {took:?}, left alone: [{left_alone}]", unsent.armed)
            }
            Self::SetState { id, change } => write!(f, "{change:?} {}", short(&id.0)),
            Self::Delete { id } => write!(f, "delete {}", short(&id.0)),
            Self::Retry { id } => write!(f, "retry {}", short(&id.0)),
            Self::Cancel { id } => write!(f, "cancel {}", short(&id.0)),
            Self::Replay { id } => write!(f, "replay {}", short(&id.0)),
            Self::Lock { lane } => write!(f, "lock {}", short(lane)),
            Self::ArmNoted => write!(f, "arm noted lanes"),
            Self::Repair => write!(f, "repair"),
        }
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Accepted { armed, .. } => write!(f, "armed [{}]", list(armed)),
            Self::AcceptedInline { lane, armed, .. } => write!(f, "in {}, armed [{}]", short(lane), list(armed)),
            Self::Claimed(claimed, _) => write!(f, "[{}]", list(claimed.iter().map(|claimed| &claimed.delivery_id))),
            Self::Recorded { applied } => write!(f, "applied to [{}]", list(applied)),
            Self::Woken(woken) => write!(f, "notified: {}, locked: [{}]", woken.notified, list(&woken.locked)),
            Self::Done => write!(f, "done"),
            Self::Replayed(id) => write!(f, "as {}", short(&id.0)),
            Self::NotesHandled(count) => write!(f, "{count}"),
            Self::Repaired(count) => write!(f, "{count}"),
            Self::Refused => write!(f, "refused"),
            Self::Failed(why) => write!(f, "undone: {why}"),
        }
    }
}
