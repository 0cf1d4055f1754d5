//! What a session is told to do, and what came of it. Everything is done by the core's own functions.

use std::time::Duration;

use postrider_core::{
    Error,
    access::audit::Actor,
    delivery::{
        self,
        inline::{self, InlineDelivery},
        replay_now,
    },
    event::{idempotency::Creation, new_event::NewEvent},
    id::{DeliveryId, SubscriptionId},
    queue::{
        self, ClaimRequest, Claimed, NextDue, Report, Woken,
        accept::{Atomicity, LeftAlone, Notification, accept, left_alone},
    },
    subscription::{StateChange, store::Subscriptions},
    trust::seal::Keyring,
    upkeep::maintenance,
};
use sqlx::PgPool;
use uuid::Uuid;

use crate::lane_model::Unsent;

#[derive(Clone, Debug)]
pub enum Operation {
    Accept { events: Vec<NewEvent> },
    AcceptInline { event: Box<NewEvent>, id: DeliveryId, delivery: Box<InlineDelivery> },
    Claim { look: ClaimRequest },
    Record { reports: Vec<Report> },
    Wake { unsent: Unsent },
    SetState { id: SubscriptionId, change: StateChange },
    Delete { id: SubscriptionId },
    Retry { id: DeliveryId },
    Cancel { id: DeliveryId },
    Replay { id: DeliveryId },
    Lock { lane: Uuid },
    ArmNoted,
    Repair,
}

#[derive(Clone, Debug)]
pub enum Output {
    Accepted {
        armed: Vec<Uuid>,
        left_alone: LeftAlone,
    },
    AcceptedInline {
        lane: Uuid,
        armed: Vec<Uuid>,
        left_alone: LeftAlone,
    },
    Claimed(Vec<Claimed>, NextDue),
    Recorded {
        applied: Vec<Uuid>,
    },
    Woken(Woken),
    /// People's wish was fulfilled.
    Done,
    Replayed(DeliveryId),
    /// So many notes of lanes were handled.
    NotesHandled(i32),
    Repaired(u64),
    /// Not possible in the state that things are in.
    Refused,
    /// Nothing has happened.
    Failed(String),
}

impl Operation {
    /// How long it waits for a lane that somebody else has locked, where it does not wait for ever.
    pub fn patience(&self) -> Option<Duration> {
        match self {
            Self::Record { .. } => Some(Duration::from_millis(250)),
            Self::Retry { .. } | Self::Replay { .. } => Some(Duration::from_secs(5)),
            Self::SetState { .. } | Self::Delete { .. } | Self::Cancel { .. } | Self::Lock { .. } | Self::Repair => {
                None
            }
            Self::Accept { .. }
            | Self::AcceptInline { .. }
            | Self::Claim { .. }
            | Self::Wake { .. }
            | Self::ArmNoted => Some(Duration::ZERO),
        }
    }

    /// Whether it stores events.
    pub fn is_ingest(&self) -> bool {
        matches!(self, Self::Accept { .. } | Self::AcceptInline { .. })
    }
}

/// Does it on this connection, which may take until somebody else lets go of a lock.
pub async fn perform(pool: PgPool, keyring: Keyring, operation: Operation) -> Output {
    let subscriptions = || Subscriptions::new(pool.clone(), keyring.clone());
    let output = match &operation {
        Operation::Accept { events } => return store(&pool, events).await,
        Operation::AcceptInline { event, id, delivery } => {
            let stored = inline::accept(&pool, &keyring, event, (*id, delivery), 60).await;
            stored.map(|stored| {
                let (lane, armed, left_alone) = (stored.lane_id, stored.armed, stored.left_alone);
                Output::AcceptedInline { lane, armed, left_alone }
            })
        }
        Operation::Claim { look } => {
            queue::claim(&pool, look).await.map(|(claimed, next)| Output::Claimed(claimed, next))
        }
        Operation::Record { reports } => {
            queue::record(&pool, reports).await.map(|applied| Output::Recorded { applied })
        }
        Operation::Wake { unsent } => {
            let deliveries: Vec<_> = unsent.left_alone.values().copied().collect();
            queue::wake(&pool, unsent.armed, unsent.took, &deliveries).await.map(Output::Woken)
        }
        Operation::SetState { id, change } => {
            subscriptions().set_state(Actor::AdminKey, *id, *change).await.map(|_| Output::Done)
        }
        Operation::Delete { id } => subscriptions().delete(Actor::AdminKey, *id).await.map(|_| Output::Done),
        Operation::Retry { id } => delivery::retry(&pool, *id).await.map(|_| Output::Done),
        Operation::Cancel { id } => delivery::cancel(&pool, *id).await.map(|_| Output::Done),
        Operation::Replay { id } => {
            replay_now::of_delivery(&pool, &keyring, *id, None, |_| Vec::new()).await.map(|creation| match creation {
                Creation::Now(id) => Output::Replayed(id),
                Creation::Before(_) => Output::Failed("there was no idempotency key".to_owned()),
            })
        }
        Operation::Lock { lane } => lock(&pool, *lane).await.map(|()| Output::Done).map_err(Error::from),
        Operation::ArmNoted => queue::arm_noted_lanes(&pool).await.map(Output::NotesHandled),
        Operation::Repair => maintenance::repair_lanes(&pool).await.map(Output::Repaired),
    };
    match (output, operation) {
        (Ok(output), _) => output,
        // A retry is unavailable while somebody else has its lane locked.
        (Err(Error::Conflict(_) | Error::NotFound(_)), _) | (Err(Error::Unavailable(_)), Operation::Retry { .. }) => {
            Output::Refused
        }
        (Err(error), _) => Output::Failed(format!("{error:?}")),
    }
}

async fn store(pool: &PgPool, events: &[NewEvent]) -> Output {
    let events: Vec<_> = events.iter().collect();
    match accept(pool, &events, Atomicity::PerEvent, 60, Notification::Afterwards).await {
        Ok(batch) => Output::Accepted { left_alone: left_alone(&events, &batch.armed), armed: batch.armed },
        Err(error) => Output::Failed(format!("{error:?}")),
    }
}

/// Locks a lane, and waits for the session's gate with the lock in its hands.
async fn lock(pool: &PgPool, lane: Uuid) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query("SELECT FROM lanes WHERE id = $1 FOR UPDATE").bind(lane).execute(&mut *transaction).await?;
    sqlx::query("SELECT pg_advisory_xact_lock_shared(7, current_setting('model.session')::integer)")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}
