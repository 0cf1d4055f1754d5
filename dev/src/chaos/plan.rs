//! What goes wrong in a run, and when: drawn from a seed, so that a run can be repeated. This file only draws; `inject`
//! makes it happen.

use std::{ops::Range, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// Load has to run before the first fault, so that something is in flight.
const FIRST_AFTER: Duration = Duration::from_millis(1500);
/// The time between two faults, in milliseconds.
const GAP_MS: Range<u64> = 150..1250;
/// After a fault of the whole database, the system is left this long to get anything done before the next one.
const DATABASE_RESTS: Duration = Duration::from_secs(4);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A worker gets SIGKILL, and is started again.
    WorkerKilled,
    /// An api gets SIGKILL, and is started again.
    ApiKilled,
    /// A worker gets SIGSTOP until its leases have run out, and then SIGCONT.
    WorkerFrozen,
    /// An api or a worker gets SIGSTOP for a shorter time.
    ProcessFrozen,
    /// An api or a worker gets SIGTERM, and is started again when it has ended.
    ProcessStopped,
    /// A worker is killed, and runs for a while with a clock that is minutes off.
    ClockWrong,
    /// Postgres is stopped at once, as by a power cut, and started again.
    DatabaseCrashed,
    /// A session of Postgres gets SIGKILL, which makes Postgres end all others and recover.
    SessionKilled,
    /// All processes of Postgres get SIGSTOP for longer than anybody waits for an answer.
    DatabaseFrozen,
    /// All processes of Postgres get SIGSTOP for a shorter time.
    DatabaseStutters,
    /// A session holds a snapshot and a transaction id for a while.
    LongTransaction,
    /// A session holds the lock on a subscription's lane for a while.
    LaneLocked,
    /// All connections of a process to Postgres are closed.
    ConnectionsCut,
    /// Whatever passes between a process and Postgres is late.
    ConnectionsDelayed,
    /// Nothing passes between a process and Postgres for a while; then everything goes on.
    ConnectionsHeld,
    /// Nothing passes any more on the present connections of a process, and nobody is told. New ones work.
    ConnectionsSwallowed,
    /// Notifications of Postgres do not reach a process.
    NotificationsLost,
    /// A receiver answers 500.
    ReceiverFails,
    /// A receiver answers 503, and asks to be left alone for a second.
    ReceiverBusy,
    /// A receiver answers later than an attempt waits.
    ReceiverHangs,
    /// A receiver closes its connections without an answer.
    ReceiverResets,
    /// A subscription is paused.
    Paused,
    /// The secret of a subscription is replaced.
    SecretReplaced,
}

/// Whom a fault of a kind befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// One worker.
    Worker,
    /// One api.
    Api,
    /// An api, a worker, or the producers that publish by SQL.
    Process,
    /// The database, so everybody.
    Database,
    /// One subscription, or its receiver.
    Subscription,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 23] = [
        Self::WorkerKilled,
        Self::ApiKilled,
        Self::WorkerFrozen,
        Self::ProcessFrozen,
        Self::ProcessStopped,
        Self::ClockWrong,
        Self::DatabaseCrashed,
        Self::SessionKilled,
        Self::DatabaseFrozen,
        Self::DatabaseStutters,
        Self::LongTransaction,
        Self::LaneLocked,
        Self::ConnectionsCut,
        Self::ConnectionsDelayed,
        Self::ConnectionsHeld,
        Self::ConnectionsSwallowed,
        Self::NotificationsLost,
        Self::ReceiverFails,
        Self::ReceiverBusy,
        Self::ReceiverHangs,
        Self::ReceiverResets,
        Self::Paused,
        Self::SecretReplaced,
    ];

    /// What the table calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker killed",
            Self::ApiKilled => "api killed",
            Self::WorkerFrozen => "worker frozen past its leases",
            Self::ProcessFrozen => "api or worker frozen for a moment",
            Self::ProcessStopped => "api or worker stopped with SIGTERM",
            Self::ClockWrong => "worker's clock minutes off",
            Self::DatabaseCrashed => "Postgres stopped at once",
            Self::SessionKilled => "Postgres session killed",
            Self::DatabaseFrozen => "Postgres frozen past the time limits",
            Self::DatabaseStutters => "Postgres frozen for a moment",
            Self::LongTransaction => "long transaction held open",
            Self::LaneLocked => "lane locked",
            Self::ConnectionsCut => "connections to Postgres cut",
            Self::ConnectionsDelayed => "connections to Postgres delayed",
            Self::ConnectionsHeld => "connections to Postgres held up",
            Self::ConnectionsSwallowed => "connections to Postgres dead",
            Self::NotificationsLost => "notifications lost",
            Self::ReceiverFails => "receiver answers 500",
            Self::ReceiverBusy => "receiver answers 503",
            Self::ReceiverHangs => "receiver hangs",
            Self::ReceiverResets => "receiver resets",
            Self::Paused => "subscription paused",
            Self::SecretReplaced => "secret replaced",
        }
    }

    /// Whom it befalls.
    #[must_use]
    pub fn victim(self) -> Victim {
        match self {
            Self::WorkerKilled | Self::WorkerFrozen | Self::ClockWrong => Victim::Worker,
            Self::ApiKilled => Victim::Api,
            Self::ProcessFrozen
            | Self::ProcessStopped
            | Self::ConnectionsCut
            | Self::ConnectionsDelayed
            | Self::ConnectionsHeld
            | Self::ConnectionsSwallowed
            | Self::NotificationsLost => Victim::Process,
            Self::DatabaseCrashed
            | Self::SessionKilled
            | Self::DatabaseFrozen
            | Self::DatabaseStutters
            | Self::LongTransaction => Victim::Database,
            Self::LaneLocked
            | Self::ReceiverFails
            | Self::ReceiverBusy
            | Self::ReceiverHangs
            | Self::ReceiverResets
            | Self::Paused
            | Self::SecretReplaced => Victim::Subscription,
        }
    }

    /// How long it lasts, in milliseconds.
    fn lasts_ms(self) -> Range<u64> {
        match self {
            Self::SecretReplaced | Self::ConnectionsCut | Self::ConnectionsSwallowed | Self::SessionKilled => 0..1,
            Self::WorkerKilled | Self::ApiKilled | Self::ProcessStopped => 0..2500,
            Self::WorkerFrozen => 8_000..11_000,
            Self::ProcessFrozen | Self::LaneLocked | Self::DatabaseStutters => 200..3500,
            Self::ClockWrong => 4_000..10_000,
            Self::DatabaseCrashed => 0..3000,
            Self::DatabaseFrozen => 11_000..13_000,
            Self::LongTransaction => 5_000..20_000,
            Self::ConnectionsDelayed | Self::ReceiverBusy => 1_000..6_000,
            Self::ConnectionsHeld => 1_000..12_000,
            Self::NotificationsLost => 2_000..8_000,
            Self::ReceiverFails | Self::ReceiverHangs | Self::ReceiverResets | Self::Paused => 500..5_000,
        }
    }

    /// How often it is drawn, compared with the others.
    fn weight(self) -> u32 {
        match self {
            Self::DatabaseFrozen => 1,
            Self::ClockWrong | Self::DatabaseCrashed | Self::SessionKilled | Self::DatabaseStutters => 2,
            Self::ProcessStopped | Self::LongTransaction | Self::ConnectionsSwallowed => 3,
            Self::WorkerFrozen | Self::LaneLocked | Self::SecretReplaced => 4,
            Self::ProcessFrozen | Self::ConnectionsHeld | Self::ApiKilled | Self::Paused => 5,
            Self::NotificationsLost | Self::ConnectionsDelayed => 6,
            Self::ReceiverFails | Self::ReceiverBusy | Self::ReceiverHangs | Self::ReceiverResets => 7,
            Self::WorkerKilled | Self::ConnectionsCut => 9,
        }
    }

    /// Whether a fault stops everything else, so that it must not come too often.
    fn stops_the_database(self) -> bool {
        self.victim() == Victim::Database && self != Self::LongTransaction
    }

    /// Whether the fault may make somebody repeat a delivery that a receiver has accepted: the outcome may be lost on
    /// its way, or a lease may run out.
    #[must_use]
    pub fn may_repeat(self) -> bool {
        match self {
            Self::WorkerKilled
            | Self::WorkerFrozen
            | Self::ProcessFrozen
            | Self::ClockWrong
            | Self::DatabaseCrashed
            | Self::SessionKilled
            | Self::DatabaseFrozen
            | Self::DatabaseStutters
            | Self::ConnectionsCut
            | Self::ConnectionsDelayed
            | Self::ConnectionsHeld
            | Self::ConnectionsSwallowed => true,
            Self::ApiKilled
            | Self::ProcessStopped
            | Self::LongTransaction
            | Self::LaneLocked
            | Self::NotificationsLost
            | Self::ReceiverFails
            | Self::ReceiverBusy
            | Self::ReceiverHangs
            | Self::ReceiverResets
            | Self::Paused
            | Self::SecretReplaced => false,
        }
    }

    /// Whether the fault may undo transactions that did not wait for the disk.
    #[must_use]
    pub fn crashes_the_database(self) -> bool {
        matches!(self, Self::DatabaseCrashed | Self::SessionKilled)
    }
}

/// A fault that is going to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, from the beginning of the run.
    pub at: Duration,
    /// Its kind.
    pub kind: Kind,
    /// Which of the possible victims, modulo their number.
    pub victim: usize,
    /// How long it lasts.
    pub lasts: Duration,
    /// A number that some kinds use: how late connections are, or how wrong a clock is.
    pub amount: u32,
}

/// Draws the faults of a run that takes this long. First each kind comes once, in any order; then they come as often as
/// their weights say. Every fault ends within the run.
#[must_use]
pub fn plan(seed: u64, time: Duration) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut once = Kind::ALL.to_vec();
    once.shuffle(&mut random);
    let (mut at, mut database_rests_until) = (FIRST_AFTER, FIRST_AFTER);
    let mut all = Vec::new();
    while at < time {
        let lasts = |kind: Kind, random: &mut StdRng| Duration::from_millis(random.random_range(kind.lasts_ms()));
        let fits = |kind: Kind, lasts: Duration| {
            at + lasts <= time && (!kind.stops_the_database() || at >= database_rests_until)
        };
        let next_of_once = once.iter().position(|kind| !kind.stops_the_database() || at >= database_rests_until);
        let mut kind = next_of_once.map_or_else(|| drawn(&mut random), |position| once.remove(position));
        let mut time_of_it = lasts(kind, &mut random);
        if !fits(kind, time_of_it) {
            kind = Kind::ReceiverFails;
            time_of_it = Duration::from_millis(500).min(time.saturating_sub(at));
        }
        if kind.stops_the_database() {
            database_rests_until = at + time_of_it + DATABASE_RESTS;
        }
        let (victim, amount) = (random.random_range(0..1_000), random.random_range(0..1_000));
        all.push(Planned { at, kind, victim, lasts: time_of_it, amount });
        at += Duration::from_millis(random.random_range(GAP_MS));
    }
    all
}

/// Draws a kind by the weights.
fn drawn(random: &mut StdRng) -> Kind {
    let mut left = random.random_range(0..Kind::ALL.iter().map(|kind| kind.weight()).sum::<u32>());
    for kind in Kind::ALL {
        match left.checked_sub(kind.weight()) {
            Some(rest) => left = rest,
            None => return kind,
        }
    }
    Kind::WorkerKilled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_plan_which_has_each_kind_and_ends_in_time() {
        let minute = Duration::from_secs(60);
        for seed in 0..50 {
            let plan_ = plan(seed, minute);
            assert_eq!(plan_, plan(seed, minute));
            assert!(plan_.len() > 60, "{}", plan_.len());
            for kind in Kind::ALL {
                assert!(plan_.iter().any(|planned| planned.kind == kind), "{kind:?} with the seed {seed}");
            }
            assert!(plan_.iter().all(|planned| planned.at + planned.lasts <= minute));
            let stops: Vec<_> = plan_.iter().filter(|planned| planned.kind.stops_the_database()).collect();
            for pair in stops.windows(2) {
                assert!(pair[0].at + pair[0].lasts + DATABASE_RESTS <= pair[1].at, "{pair:?}");
            }
        }
        assert_ne!(plan(1, minute), plan(2, minute));
    }
}
