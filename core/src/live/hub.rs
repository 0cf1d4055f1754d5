//! An api's side of the live feed: it asks the processes for reports while it has viewers, puts their answers together
//! second by second, and keeps a minute of them for a viewer whose connection breaks.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    announce::{changes as announced, notify::Notice},
    database::{ANSWER_TIMEOUT, in_time},
    live::{
        ASKED_EVERY, SCOPES_MAX, Scope,
        changes::{Change, Changes},
        reporter::{Question, Report, notify},
        rollups::Rollups,
        sample::{Row, Sample},
    },
};

/// Viewers of one api process, at most.
pub const VIEWERS_MAX: usize = 64;
/// Viewers with one key, at most.
pub const VIEWERS_PER_KEY_MAX: usize = 4;
/// Seconds that are kept for viewers who come back, and for which a scope is still watched when its last viewer has
/// gone.
const KEPT: usize = 60;
/// Seconds that a viewer may be behind and still gets each of them.
const LAG_MAX: usize = 2;
/// A question that the api has not heard itself after this time was not delivered: notifications do not arrive here.
const DEAF_AFTER: Duration = Duration::from_secs(5);

/// Why a viewer is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The key has [`VIEWERS_PER_KEY_MAX`] viewers.
    Key,
    /// The process has [`VIEWERS_MAX`] viewers, or they look at too many different scopes.
    Process,
}

/// What happened in one second, or a little more, in one scope.
#[derive(Clone, Debug)]
pub struct Second {
    /// Counts up by one with each second of this hub.
    pub number: u64,
    /// When the second was over, by the clock of this process.
    pub at: DateTime<Utc>,
    /// What the processes have told.
    pub sample: Sample,
    /// Changes of circuits, and entries of the audit log.
    pub changes: Vec<Change>,
    /// Where the numbers come from.
    pub source: Source,
}

/// Where the numbers of a second come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The processes report.
    Live,
    /// Notifications do not arrive, so these are the stored sums: they come in steps, and without rows.
    Rollups,
}

impl Second {
    /// The rows to show.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.sample.rows
    }
}

/// The feed of one api process.
pub struct Hub {
    /// Tells the seconds of this process from those of others.
    epoch: u32,
    state: Mutex<State>,
    ticks: watch::Sender<u64>,
    came: Notify,
    is_closed: CancellationToken,
    has_listened: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Ends the views that there are; later views have another one.
    ends: CancellationToken,
    scopes: HashMap<Scope, Watched>,
    viewers: HashMap<String, usize>,
    asked_at: Option<Instant>,
    heard_at: Option<Instant>,
}

#[derive(Default)]
struct Watched {
    viewers: usize,
    seconds: VecDeque<Arc<Second>>,
    coming: Sample,
    /// Seconds since the last viewer has gone.
    alone: usize,
}

impl Default for Hub {
    /// A hub without viewers.
    fn default() -> Self {
        Self {
            epoch: rand::random(),
            state: Mutex::default(),
            ticks: watch::Sender::new(0),
            came: Notify::new(),
            is_closed: CancellationToken::new(),
            has_listened: AtomicBool::new(false),
        }
    }
}

impl Hub {
    /// Lets somebody look at a scope. `who` is whose viewers are counted together. A viewer who was here before names
    /// the last second it has seen, as [`Viewer::id`] tells it.
    ///
    /// # Errors
    /// When there are too many viewers.
    pub fn view(self: &Arc<Self>, who: &str, scope: Scope, last_id: Option<&str>) -> Result<Viewer, Full> {
        let mut state = self.state();
        if state.viewers.get(who).is_some_and(|viewers| *viewers >= VIEWERS_PER_KEY_MAX) {
            return Err(Full::Key);
        }
        let is_full = state.viewers.values().sum::<usize>() >= VIEWERS_MAX
            || (state.scopes.len() >= SCOPES_MAX && !state.scopes.contains_key(&scope));
        if is_full {
            return Err(Full::Process);
        }
        *state.viewers.entry(who.to_owned()).or_default() += 1;
        let watched = state.scopes.entry(scope.clone()).or_default();
        watched.viewers += 1;
        watched.alone = 0;
        let ticks = self.ticks.subscribe();
        let seen = match last_id.map(|id| self.number_of(id)) {
            Some(Some(number)) => Seen::Before(number),
            Some(None) => Seen::Elsewhere,
            None => Seen::Until(*ticks.borrow()),
        };
        self.came.notify_one();
        let ends = state.ends.clone();
        Ok(Viewer { hub: Arc::clone(self), who: who.to_owned(), scope, ticks, seen, ends })
    }

    /// Ends all views where a key may have been revoked; call it for each change that is announced. Who still may look
    /// comes back. That anything may have changed is also told when the api begins to listen, right after its start:
    /// views are not ended for that.
    pub fn hear_change(&self, change: &announced::Change) {
        let may_revoke = match change {
            announced::Change::ApiKey(_) => true,
            announced::Change::Anything => self.has_listened.swap(true, Ordering::Relaxed),
            announced::Change::Subscription { .. } => false,
        };
        if may_revoke {
            std::mem::take(&mut self.state().ends).cancel();
        }
    }

    /// Ends all views for good; call it when the process stops.
    pub fn close(&self) {
        self.is_closed.cancel();
    }

    /// How many viewers there are.
    #[must_use]
    pub fn viewers(&self) -> usize {
        self.state().viewers.values().sum()
    }

    /// Takes in a report; call it for each notice on [`crate::live::LIVE_CHANNEL`].
    pub fn hear_report(&self, notice: &Notice<'_>) {
        let Notice::Notification(payload) = notice else { return };
        let Ok(report) = serde_json::from_str::<Report>(payload) else { return };
        let Ok(scope) = report.scope.parse::<Scope>() else { return };
        if let Some(watched) = self.state().scopes.get_mut(&scope) {
            watched.coming.merge(report.sample);
        }
    }

    /// Takes note that a question was delivered; call it for each notice on [`crate::live::WATCH_CHANNEL`].
    pub fn hear_question(&self, notice: &Notice<'_>) {
        if matches!(notice, Notice::Notification(_)) {
            self.state().heard_at = Some(Instant::now());
        }
    }

    /// Asks for reports and closes the seconds, for as long as there are viewers; waits while there are none. `channel`
    /// is the one on which questions are asked.
    pub async fn run(&self, pool: PgPool, channel: String) {
        loop {
            if self.state().scopes.is_empty() {
                self.came.notified().await;
            }
            let mut changes = Changes::begin(&pool).await;
            let mut rollups = Rollups::default();
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            let mut asked = self.ask(&pool, &channel).await;
            while !self.state().scopes.is_empty() {
                tokio::select! {
                    _ = tick.tick() => {
                        let changed = changes.since_last(&pool).await;
                        let written = self.written(&pool, &mut rollups).await;
                        self.close_second(&changed, written);
                        if asked.elapsed() >= ASKED_EVERY {
                            asked = self.ask(&pool, &channel).await;
                        }
                    }
                    // A new viewer may look at something that nobody has asked for yet.
                    () = self.came.notified() => asked = self.ask(&pool, &channel).await,
                }
            }
        }
    }

    async fn ask(&self, pool: &PgPool, channel: &str) -> Instant {
        let scopes = self.state().scopes.keys().map(ToString::to_string).collect();
        let question = serde_json::to_string(&Question { scopes }).expect("a question is JSON");
        self.state().asked_at.get_or_insert_with(Instant::now);
        if let Err(error) = in_time(ANSWER_TIMEOUT, notify(pool, channel, &question)).await {
            tracing::debug!(%error, "the processes were not asked for reports");
        }
        Instant::now()
    }

    /// What was added to the stored sums, where the processes cannot report.
    #[expect(clippy::disallowed_methods, reason = "the minutes that are read end with the present one")]
    async fn written(&self, pool: &PgPool, rollups: &mut Rollups) -> HashMap<Scope, Sample> {
        let scopes: Vec<_> = {
            let state = self.state();
            if state.source() == Source::Live {
                *rollups = Rollups::default();
                return HashMap::new();
            }
            state.scopes.keys().cloned().collect()
        };
        rollups.since_last(pool, &scopes, Utc::now()).await.unwrap_or_default()
    }

    #[expect(clippy::disallowed_methods, reason = "a viewer is told the time of this process")]
    fn close_second(&self, changed: &[Change], mut written: HashMap<Scope, Sample>) {
        let number = *self.ticks.borrow() + 1;
        let at = Utc::now();
        let mut state = self.state();
        let source = state.source();
        state.scopes.retain(|scope, watched| {
            watched.alone = if watched.viewers == 0 { watched.alone + 1 } else { 0 };
            let mut sample = std::mem::take(&mut watched.coming);
            if let Some(written) = written.remove(scope) {
                sample.merge(written);
            }
            let changes = changed.iter().filter(|change| change.is_in(scope)).cloned().collect();
            watched.seconds.push_back(Arc::new(Second { number, at, sample, changes, source }));
            if watched.seconds.len() > KEPT {
                watched.seconds.pop_front();
            }
            watched.alone <= KEPT
        });
        if state.scopes.is_empty() {
            (state.asked_at, state.heard_at) = (None, None);
        }
        drop(state);
        self.ticks.send_replace(number);
    }

    /// The seconds of a scope after this one.
    fn after(&self, scope: &Scope, number: u64) -> Vec<Arc<Second>> {
        let state = self.state();
        let seconds = state.scopes.get(scope).map(|watched| watched.seconds.iter());
        seconds.into_iter().flatten().filter(|second| second.number > number).map(Arc::clone).collect()
    }

    fn number_of(&self, id: &str) -> Option<u64> {
        let (epoch, number) = id.split_once('-')?;
        (u32::from_str_radix(epoch, 16) == Ok(self.epoch)).then(|| number.parse().ok()).flatten()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notifications arrive if the process hears its own questions. The first question gets some time.
    fn source(&self) -> Source {
        let limit = ASKED_EVERY + DEAF_AFTER;
        match (self.asked_at, self.heard_at) {
            (Some(asked), None) if asked.elapsed() > DEAF_AFTER => Source::Rollups,
            (_, Some(heard)) if heard.elapsed() > limit => Source::Rollups,
            _ => Source::Live,
        }
    }
}

/// What a viewer has seen so far.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// Everything until this second.
    Until(u64),
    /// Everything until this second; then its connection broke.
    Before(u64),
    /// Seconds of another process, or of this one before it was started again.
    Elsewhere,
}

/// What a viewer is shown next.
#[derive(Clone, Debug)]
pub enum Shown {
    /// Seconds that follow on what was shown before.
    Seconds(Vec<Arc<Second>>),
    /// The newest second, before which this many seconds are missing; `None` where nobody knows how many.
    Gap(Option<u64>, Arc<Second>),
}

/// Somebody who looks at the feed. Dropping it ends the view.
pub struct Viewer {
    hub: Arc<Hub>,
    who: String,
    scope: Scope,
    ticks: watch::Receiver<u64>,
    seen: Seen,
    ends: CancellationToken,
}

impl Viewer {
    /// Waits for what is next; `None` when the view ends. A viewer that asks too seldom gets the newest second and
    /// is told what it has missed, so nothing queues up for it.
    pub async fn next(&mut self) -> Option<Shown> {
        loop {
            let shown = self.look();
            if shown.is_some() {
                return shown;
            }
            tokio::select! {
                biased;
                () = self.hub.is_closed.cancelled() => return None,
                () = self.ends.cancelled() => return None,
                changed = self.ticks.changed() => changed.ok()?,
            }
        }
    }

    fn look(&mut self) -> Option<Shown> {
        self.ticks.mark_unchanged();
        let known = match self.seen {
            Seen::Until(number) | Seen::Before(number) => number,
            Seen::Elsewhere => 0,
        };
        let seconds = self.hub.after(&self.scope, known);
        let (first, newest) = (seconds.first()?.number, Arc::clone(seconds.last()?));
        let shown = match self.seen {
            Seen::Elsewhere => Shown::Gap(None, Arc::clone(&newest)),
            Seen::Before(_) if first == known + 1 => Shown::Seconds(seconds),
            Seen::Until(_) if first == known + 1 && seconds.len() <= LAG_MAX => Shown::Seconds(seconds),
            Seen::Before(_) | Seen::Until(_) => Shown::Gap(Some(newest.number - known - 1), Arc::clone(&newest)),
        };
        self.seen = Seen::Until(newest.number);
        Some(shown)
    }

    /// The id of a second, by which a viewer that comes back tells what it has seen.
    #[must_use]
    pub fn id(&self, second: &Second) -> String {
        format!("{:08x}-{}", self.hub.epoch, second.number)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        if let Some(watched) = state.scopes.get_mut(&self.scope) {
            watched.viewers -= 1;
        }
        if let Some(viewers) = state.viewers.get_mut(&self.who) {
            *viewers -= 1;
            if *viewers == 0 {
                state.viewers.remove(&self.who);
            }
        }
    }
}
