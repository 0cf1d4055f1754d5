//! DNS look-ups that are shared fairly, so that slow name servers of one domain do not delay the others: each name is
//! asked for once at a time, each domain has a share, and there is a limit over all. A caller that finds no room waits
//! for its turn. How the system is asked is in `system`; which addresses are acceptable is decided by
//! [`crate::trust::target_policy::TargetPolicy`].

mod system;

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::system::SystemResolver;

/// Look-ups under way, at most. Each holds a few sockets.
const LOOKUPS_MAX: usize = 256;
/// Look-ups under way of names that share their last two labels, at most.
const LOOKUPS_PER_DOMAIN_MAX: usize = 16;
/// Names that are being looked up or wait for their turn, at most; further ones are refused as busy.
const NAMES_MAX: usize = 16_384;
/// How long a look-up may take, and how long a caller waits for one. It is shorter than connecting may take, so that a
/// name that does not resolve is reported as such.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);
/// How long an answer is used, even if it is that there is no address. It is longer than a delivery rests that found no
/// room for its look-up, so that the answer that arrived meanwhile is still of use.
const ANSWER_LIFE: Duration = Duration::from_secs(10);
/// Answers kept, at most.
const ANSWERS_MAX: u64 = 10_000;

/// A look-up that resolves to the addresses of a host.
pub type Addresses<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// A way to look up names.
pub trait Lookup: Send + Sync {
    /// All addresses of a host, of both families. An error of the kind `ResourceBusy` means that we had no room to ask.
    fn addresses<'a>(&'a self, host: &'a str) -> Addresses<'a>;

    /// Whether a look-up of this host is under way that had to wait for other look-ups. If it then ends too late, that
    /// is not the host's fault.
    fn is_held_up(&self, _host: &str) -> bool {
        false
    }
}

/// The way in which names are looked up; by default, as the system is configured.
#[derive(Clone)]
pub struct Dns(pub Arc<dyn Lookup>);

impl Default for Dns {
    fn default() -> Self {
        let system = Arc::new(SystemResolver::default());
        let ask = move |host: String| {
            let system = Arc::clone(&system);
            async move { system.addresses(&host).await }
        };
        Self(Arc::new(Shared::new(ask, LOOKUP_TIMEOUT)))
    }
}

/// The result of a look-up, for all callers that wait for it.
type Found = Result<Vec<IpAddr>, (io::ErrorKind, String)>;

/// A look-up that has no result yet.
#[derive(Clone)]
struct UnderWay {
    found: watch::Receiver<Option<Found>>,
    /// Set once the look-up has to wait for its turn.
    is_held_up: Arc<AtomicBool>,
}

/// Look-ups that all callers share who ask for the same name.
struct Shared<F> {
    ask: F,
    timeout: Duration,
    desk: Arc<Desk>,
    answers: Cache<String, Found>,
}

/// The look-ups under way, and the room that is left for more.
struct Desk {
    room: Arc<Semaphore>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    under_way: HashMap<String, UnderWay>,
    /// For each domain that has names under way, its room and how many names it has.
    shares: HashMap<String, Share>,
}

struct Share {
    room: Arc<Semaphore>,
    names: usize,
}

impl Desk {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nothing panics while it is held")
    }
}

/// The entry of one name among the look-ups under way. Dropping it removes the name, however its look-up ended.
struct Entry {
    desk: Arc<Desk>,
    host: String,
    share: Arc<Semaphore>,
    is_held_up: Arc<AtomicBool>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut open = self.desk.open();
        open.under_way.remove(&self.host);
        let domain = domain(&self.host);
        if let Some(share) = open.shares.get_mut(domain) {
            share.names -= 1;
            if share.names == 0 {
                open.shares.remove(domain);
            }
        }
    }
}

impl Entry {
    /// Waits for this name's turn, first within its domain, so that no name waits for its domain while it takes room
    /// from all.
    async fn turn(&self) -> [OwnedSemaphorePermit; 2] {
        [self.place_in(&self.share).await, self.place_in(&self.desk.room).await]
    }

    async fn place_in(&self, room: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(room).try_acquire_owned() {
            return place;
        }
        self.is_held_up.store(true, Ordering::Relaxed);
        Arc::clone(room).acquire_owned().await.expect("it is never closed")
    }
}

impl<F, A> Shared<F>
where
    F: Fn(String) -> A + Send + Sync,
    A: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    fn new(ask: F, timeout: Duration) -> Self {
        let desk = Desk { room: Arc::new(Semaphore::new(LOOKUPS_MAX)), open: Mutex::default() };
        let answers = Cache::builder().max_capacity(ANSWERS_MAX).time_to_live(ANSWER_LIFE).build();
        Self { ask, timeout, desk: Arc::new(desk), answers }
    }

    /// Joins the look-up of this name, or begins one. It goes on even if its callers give up, so that one who comes
    /// again finds its answer, or its place among those that wait.
    fn join(&self, host: &str) -> io::Result<UnderWay> {
        let mut open = self.desk.open();
        if let Some(under_way) = open.under_way.get(host) {
            return Ok(under_way.clone());
        }
        if open.under_way.len() >= NAMES_MAX {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let share = open
            .shares
            .entry(domain(host).to_owned())
            .or_insert_with(|| Share { room: Arc::new(Semaphore::new(LOOKUPS_PER_DOMAIN_MAX)), names: 0 });
        share.names += 1;
        let share = Arc::clone(&share.room);
        let (tell, found) = watch::channel(None);
        let under_way = UnderWay { found, is_held_up: Arc::default() };
        open.under_way.insert(host.to_owned(), under_way.clone());
        drop(open);

        let is_held_up = Arc::clone(&under_way.is_held_up);
        let entry = Entry { desk: Arc::clone(&self.desk), host: host.to_owned(), share, is_held_up };
        let asking = (self.ask)(host.to_owned());
        let (timeout, answers) = (self.timeout, self.answers.clone());
        tokio::spawn(async move {
            let turn = entry.turn().await;
            let found = match tokio::time::timeout(timeout, asking).await {
                Ok(found) => found.map_err(|error| (error.kind(), error.to_string())),
                Err(_) => Err(late(timeout)),
            };
            drop(turn);
            if !matches!(&found, Err((io::ErrorKind::ResourceBusy, _))) {
                answers.insert(entry.host.clone(), found.clone()).await;
            }
            drop(entry);
            let _ = tell.send(Some(found));
        });
        Ok(under_way)
    }
}

impl<F, A> Lookup for Shared<F>
where
    F: Fn(String) -> A + Send + Sync,
    A: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    fn addresses<'a>(&'a self, host: &'a str) -> Addresses<'a> {
        Box::pin(async move {
            let found = match self.answers.get(host).await {
                Some(found) => found,
                None => wait_for(self.join(host)?, self.timeout).await,
            };
            found.map_err(|(kind, message)| io::Error::new(kind, message))
        })
    }

    fn is_held_up(&self, host: &str) -> bool {
        let open = self.desk.open();
        open.under_way.get(host).is_some_and(|under_way| under_way.is_held_up.load(Ordering::Relaxed))
    }
}

async fn wait_for(mut under_way: UnderWay, timeout: Duration) -> Found {
    let waiting = under_way.found.wait_for(Option::is_some);
    match tokio::time::timeout(timeout, waiting).await {
        Ok(Ok(found)) => found.clone().expect("waited for"),
        Ok(Err(_)) => Err((io::ErrorKind::Other, "the look-up broke off".to_owned())),
        Err(_) if under_way.is_held_up.load(Ordering::Relaxed) => {
            Err((io::ErrorKind::ResourceBusy, "too many names are being looked up".to_owned()))
        }
        Err(_) => Err(late(timeout)),
    }
}

fn late(timeout: Duration) -> (io::ErrorKind, String) {
    (io::ErrorKind::TimedOut, format!("no answer within {timeout:?}"))
}

/// The last two labels of a name: a good enough guess at who owns it. Where many owners share such a domain, their
/// names wait for each other's look-ups, but are not refused.
fn domain(host: &str) -> &str {
    let host = host.trim_end_matches('.');
    host.rmatch_indices('.').nth(1).map_or(host, |(place, _)| &host[place + 1..])
}

#[cfg(test)]
mod tests;
