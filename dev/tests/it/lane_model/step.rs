//! The steps of a case, as they are drawn and shrunk: small, and complete without knowing what came before. Numbers
//! that pick one of several things are taken modulo their count when the step is made.

use std::time::Duration;

use postrider_core::subscription::StateChange;
use proptest::{collection::vec, prelude::*, sample::select};

use crate::lane_model::stage::SESSIONS;

/// Subscriptions of a case.
pub const SUBSCRIPTIONS: usize = 2;
/// Lanes of inline deliveries, at most.
pub const INLINE_LANES: usize = 2;
/// Steps and races of a case, less than.
const STEPS_MAX: usize = 42;
/// Longer than `lane_linger()` of the database.
const LINGER: Duration = Duration::from_millis(8100);

/// What is tried: steps by three sessions, and how everything ends.
#[derive(Clone, Debug)]
pub struct Case {
    pub steps: Vec<Step>,
    /// What becomes of transactions that are open after the last step.
    pub endings: [Ending; SESSIONS],
    /// The worker that lives on.
    pub survivor: usize,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// A session begins a transaction. Where it has one open, that is committed first.
    Do { session: usize, action: Action, commits: Commits },
    /// A session's open transaction ends.
    End { session: usize, ending: Ending },
    /// Time passes.
    Pass(Duration),
    /// The api dies before it has sent its wake-ups.
    LoseWakeUps,
    /// The worker of a session dies with all that it holds.
    Crash { session: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    AtOnce,
    /// Not before the session's next step.
    Later,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Commit,
    Rollback,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// Events come in, one for each lane and time that is named.
    Accept(Vec<(usize, Option<Duration>)>),
    AcceptInline {
        lane: usize,
        later: Option<Duration>,
    },
    /// A worker looks for work.
    Look,
    /// A worker reports of deliveries that it holds.
    Record(Vec<(usize, Fate)>),
    /// A report arrives once more, long after.
    RecordAgain(usize),
    /// The api sends the wake-ups that it owes.
    Wake,
    SetState {
        lane: usize,
        change: StateChange,
    },
    Delete {
        lane: usize,
    },
    Retry(usize),
    Cancel(usize),
    Replay(usize),
    /// Somebody locks a lane, as a statement of people's might, and changes nothing.
    Lock(usize),
    /// The janitor arms lanes that were locked when somebody needed to arm them.
    ArmNoted,
    /// The janitor looks for lanes that are due too late, and forgets the empty lanes of inline deliveries.
    Repair,
}

/// What becomes of a delivery that a worker holds.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Succeeds,
    Fails {
        after: Duration,
        lane_rests: Option<Duration>,
    },
    Dies {
        lane_rests: Option<Duration>,
    },
    /// It has lost so many leases that it is not attempted again.
    DiesUnattempted,
    /// Nobody wants it any more.
    IsCanceled,
    /// It is given back without an attempt.
    IsReleased {
        after: Duration,
    },
    /// The worker stopped before the receiver answered.
    IsCutShort,
}

pub fn case() -> impl Strategy<Value = Case> {
    let ending = || prop_oneof![3 => Just(Ending::Commit), 1 => Just(Ending::Rollback)];
    let steps = vec(prop_oneof![7 => step().prop_map(|step| vec![step]), 1 => race()], 1..STEPS_MAX);
    (steps, [ending(), ending(), ending()], 0..SESSIONS).prop_map(|(steps, endings, survivor)| Case {
        steps: steps.concat(),
        endings,
        survivor,
    })
}

/// Steps that seldom follow each other by chance: an ingest and a look at the same time, perhaps at the second look of
/// a lane. Meanwhile time may pass, or somebody else looks or sends a wake-up.
fn race() -> impl Strategy<Value = Vec<Step>> {
    let accept = vec((Just(0_usize), later()), 1..3).prop_map(Action::Accept);
    let sessions = Just([0, 1, 2]).prop_shuffle();
    let pause = select(vec![400, 1100, 3100, 4800]).prop_map(Duration::from_millis);
    (accept, sessions, pause, (0..2_usize, 0..2_usize, 0..2_usize), (0..4_usize, 0..3_usize)).prop_map(
        |(accept, [one, other, third], pause, (before, order, between), (meanwhile, after))| {
            let at_once = |session, action| Step::Do { session, action, commits: Commits::AtOnce };
            let drained = [
                Step::Crash { session: other },
                at_once(other, Action::Look),
                at_once(other, Action::Record(vec![(0, Fate::Succeeds); 4])),
                Step::Pass(LINGER),
            ];
            let (first, second) = if order == 0 { (accept, Action::Look) } else { (Action::Look, accept) };
            let mut steps = if before == 0 { Vec::new() } else { drained.to_vec() };
            steps.push(Step::Do { session: one, action: first, commits: Commits::Later });
            steps.extend((between > 0).then_some(Step::Pass(pause)));
            steps.push(at_once(other, second));
            steps.extend(match meanwhile {
                0 => vec![],
                1 => vec![at_once(third, Action::Wake)],
                2 => vec![Step::Pass(pause)],
                _ => vec![Step::Pass(pause), at_once(third, Action::Look)],
            });
            steps.push(Step::End { session: one, ending: Ending::Commit });
            steps.extend(match after {
                0 => None,
                1 => Some(at_once(third, Action::Wake)),
                _ => Some(at_once(third, Action::Accept(vec![(0, Some(LINGER * 2))]))),
            });
            steps
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..SESSIONS;
    let commits = prop_oneof![3 => Just(Commits::AtOnce), 2 => Just(Commits::Later)];
    let ending = prop_oneof![4 => Just(Ending::Commit), 1 => Just(Ending::Rollback)];
    prop_oneof![
        18 => (session.clone(), action(), commits)
            .prop_map(|(session, action, commits)| Step::Do { session, action, commits }),
        4 => (session.clone(), ending).prop_map(|(session, ending)| Step::End { session, ending }),
        5 => passing().prop_map(Step::Pass),
        1 => Just(Step::LoseWakeUps),
        1 => session.prop_map(|session| Step::Crash { session }),
    ]
}

/// Around everything that the queue measures time by: the margin of looks, the worker's sweep, the linger, the lane's
/// sweep, and the leases.
fn passing() -> impl Strategy<Value = Duration> {
    select(vec![30, 400, 900, 1100, 1100, 1100, 2000, 2000, 3000, 4800, 5200, 6000, 8100, 8100, 10_200, 36_000])
        .prop_map(Duration::from_millis)
}

/// One of these times in milliseconds, or, `nones` times as often, none.
fn some_of(nones: u32, times: &[u64]) -> impl Strategy<Value = Option<Duration>> + use<> {
    let time = select(times.to_vec()).prop_map(|ms| Some(Duration::from_millis(ms)));
    prop_oneof![nones => Just(None), 1 => time]
}

fn later() -> impl Strategy<Value = Option<Duration>> {
    some_of(4, &[500, 3000, 9000, 15_000])
}

fn action() -> impl Strategy<Value = Action> {
    let lane = 0..SUBSCRIPTIONS;
    // Most events are for one of them, because only events of one lane meet.
    let busy = prop_oneof![3 => Just(0_usize), 1 => lane.clone()];
    let any_lane = 0..SUBSCRIPTIONS + INLINE_LANES;
    let pick = 0..1000_usize;
    let change = select(vec![
        StateChange::Pause,
        StateChange::Pause,
        StateChange::Resume,
        StateChange::Resume,
        StateChange::Disable,
        StateChange::Enable,
        StateChange::Enable,
    ]);
    prop_oneof![
        12 => vec((busy, later()), 1..6).prop_map(Action::Accept),
        4 => (0..INLINE_LANES, later()).prop_map(|(lane, later)| Action::AcceptInline { lane, later }),
        20 => Just(Action::Look),
        10 => vec((pick.clone(), fate()), 1..4).prop_map(Action::Record),
        1 => pick.clone().prop_map(Action::RecordAgain),
        7 => Just(Action::Wake),
        4 => (lane.clone(), change).prop_map(|(lane, change)| Action::SetState { lane, change }),
        1 => lane.prop_map(|lane| Action::Delete { lane }),
        3 => pick.clone().prop_map(Action::Retry),
        1 => pick.clone().prop_map(Action::Cancel),
        2 => pick.prop_map(Action::Replay),
        3 => any_lane.prop_map(Action::Lock),
        3 => Just(Action::ArmNoted),
        1 => Just(Action::Repair),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    let after = || select(vec![0, 1000, 3000, 20_000]).prop_map(Duration::from_millis);
    let rest = || some_of(2, &[1000, 6000, 15_000]);
    prop_oneof![
        6 => Just(Fate::Succeeds),
        4 => (after(), rest()).prop_map(|(after, lane_rests)| Fate::Fails { after, lane_rests }),
        1 => rest().prop_map(|lane_rests| Fate::Dies { lane_rests }),
        1 => Just(Fate::DiesUnattempted),
        1 => Just(Fate::IsCanceled),
        2 => after().prop_map(|after| Fate::IsReleased { after }),
        1 => Just(Fate::IsCutShort),
    ]
}
