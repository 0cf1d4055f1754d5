//! What a session is told to do, and what came of it. Everything is done by the core's own functions.

use postrider_core::{
    Error,
    access::audit::Actor,
    delivery::{
        self,
        inline::{self, InlineDelivery},
        replay_now,
    },
    event::idempotency::Creation,
    id::{DeliveryId, SubscriptionId},
    queue::{
        self, ClaimRequest, Claimed, Report,
        accept::{Atomicity, NewEvent, accept},
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
    Repair,
}

#[derive(Clone, Debug)]
pub enum Output {
    Accepted {
        armed: Vec<Uuid>,
    },
    AcceptedInline {
        lane: Uuid,
        armed: Vec<Uuid>,
    },
    Claimed(Vec<Claimed>),
    Recorded {
        applied: Vec<Uuid>,
    },
    Woken,
    /// People's wish was fulfilled.
    Done,
    Replayed(DeliveryId),
    Repaired(u64),
    /// Not possible in the state that things are in.
    Refused,
    /// Nothing has happened.
    Failed(String),
}

/// Does it on this connection, which may take until somebody else lets go of a lock.
pub async fn perform(pool: PgPool, keyring: Keyring, operation: Operation) -> Output {
    let subscriptions = || Subscriptions::new(pool.clone(), keyring.clone());
    let output = match &operation {
        Operation::Accept { events } => return store(&pool, events).await,
        Operation::AcceptInline { event, id, delivery } => {
            let stored = inline::accept(&pool, &keyring, event, (*id, delivery), 60).await;
            stored.map(|stored| Output::AcceptedInline { lane: stored.lane_id, armed: stored.armed })
        }
        Operation::Claim { look } => queue::claim(&pool, look).await.map(Output::Claimed),
        Operation::Record { reports } => {
            queue::record(&pool, reports).await.map(|applied| Output::Recorded { applied })
        }
        Operation::Wake { unsent } => {
            let deliveries: Vec<_> = unsent.unarmed.values().copied().collect();
            queue::wake(&pool, unsent.armed, &deliveries).await.map(|_| Output::Woken)
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
        Operation::Repair => maintenance::repair_lanes(&pool).await.map(Output::Repaired),
    };
    match output {
        Ok(output) => output,
        Err(Error::Conflict(_) | Error::NotFound(_)) => Output::Refused,
        Err(error) => Output::Failed(format!("{error:?}")),
    }
}

async fn store(pool: &PgPool, events: &[NewEvent]) -> Output {
    let events: Vec<_> = events.iter().collect();
    match accept(pool, &events, Atomicity::PerEvent, 60).await {
        Ok(batch) => Output::Accepted { armed: batch.armed },
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
