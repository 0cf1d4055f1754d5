//! The processes of a run: two apis and three workers, the real binaries, each with a proxy of its own before Postgres.
//! Each has a supervisor, which starts it again whatever ends it, and does to it what the plan wants.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    chaos::{
        log::{At, Journal},
        plan::Kind,
        proxy::Proxy,
    },
    child::Signal,
    postgres::free_port,
    up::Process,
};

/// How many apis there are.
pub const APIS: usize = 2;
/// How many workers there are.
pub const WORKERS: usize = 3;
/// How long to wait before a process is started again that did not start.
const START_PAUSE: Duration = Duration::from_millis(500);
/// Where Debian's package `libfaketime` puts the library that makes a process see another time.
const FAKE_TIME: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];

/// What a supervisor does to its process.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Kill it, and start it again after this time.
    Kill(Duration),
    /// Stop it as it should be stopped, and start it again after this time.
    Terminate(Duration),
    /// Freeze it for this time. The fault is told as this kind.
    Freeze(Kind, Duration),
    /// Kill it, and run it for this time with a clock that is wrong by so many minutes.
    SetClock(i32, Duration),
}

/// A process with its supervisor.
pub struct Member {
    /// Its name, such as `worker-1`.
    pub name: String,
    /// The proxy before its database.
    pub proxy: Arc<Proxy>,
    /// Where it is called, where it is an api.
    pub address: Option<String>,
    is_running: Arc<AtomicBool>,
    orders: mpsc::Sender<Order>,
    supervisor: JoinHandle<()>,
}

/// All processes of a run.
pub struct Fleet {
    /// The apis first, then the workers.
    pub members: Vec<Member>,
}

impl Fleet {
    /// Starts all processes and waits until they are ready. Their logs go to files in the folder.
    ///
    /// # Errors
    /// When a proxy does not start, or a process is not ready in time.
    pub async fn start(
        env: &HashMap<String, String>,
        database: &str,
        folder: &Path,
        journal: &Arc<Journal>,
    ) -> Result<Self> {
        let server = database_address(database)?;
        let mut members = Vec::new();
        for number in 0..APIS + WORKERS {
            let proxy = Arc::new(Proxy::start(server).await?);
            let mut env = env.clone();
            env.insert("DATABASE_URL".to_owned(), through(database, &proxy));
            let (program, name) = if number < APIS {
                ("api", format!("api-{number}"))
            } else {
                ("worker", format!("worker-{}", number - APIS))
            };
            let address = (number < APIS).then(|| free_port().map(|port| format!("127.0.0.1:{port}"))).transpose()?;
            if let Some(address) = &address {
                env.insert("POSTRIDER_API_LISTEN".to_owned(), address.clone());
            }
            env.insert("POSTRIDER_WORKER_LISTEN".to_owned(), "off".to_owned());
            let log = folder.join(format!("{name}.log"));
            members.push(Member::start(program, name, proxy, address, env, log, Arc::clone(journal)));
        }
        let fleet = Self { members };
        fleet.is_ready().await?;
        Ok(fleet)
    }

    async fn is_ready(&self) -> Result<()> {
        let ready = async {
            while !self.members.iter().all(|member| member.is_running.load(Ordering::SeqCst)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), ready).await.context("the processes do not start")
    }

    /// The workers.
    #[must_use]
    pub fn workers(&self) -> &[Member] {
        &self.members[APIS..]
    }

    /// The apis.
    #[must_use]
    pub fn apis(&self) -> &[Member] {
        &self.members[..APIS]
    }

    /// Ends what disturbs connections, and waits until every process runs.
    ///
    /// # Errors
    /// When a process does not start.
    pub async fn calm(&self) -> Result<()> {
        for member in &self.members {
            member.proxy.calm();
        }
        self.is_ready().await
    }

    /// Stops all processes as they should be stopped.
    pub async fn stop(self) {
        let supervisors: Vec<_> = self
            .members
            .into_iter()
            .map(|member| {
                drop(member.orders);
                (member.supervisor, member.proxy)
            })
            .collect();
        for (supervisor, _proxy) in supervisors {
            let _ = supervisor.await;
        }
    }
}

impl Member {
    fn start(
        program: &'static str,
        name: String,
        proxy: Arc<Proxy>,
        address: Option<String>,
        env: HashMap<String, String>,
        log: PathBuf,
        journal: Arc<Journal>,
    ) -> Self {
        let is_running = Arc::new(AtomicBool::new(false));
        let (orders, received) = mpsc::channel(1);
        let supervisor = Supervisor {
            program,
            name: name.clone(),
            env,
            log,
            journal,
            is_running: Arc::clone(&is_running),
            wrong_by: None,
        };
        Self { name, proxy, address, is_running, orders, supervisor: tokio::spawn(supervisor.run(received)) }
    }

    /// Tells the supervisor to do something, and returns whether it will: not while the process is starting, or
    /// something else is being done to it.
    #[must_use]
    pub fn order(&self, order: Order) -> bool {
        self.is_running.load(Ordering::SeqCst) && self.orders.try_send(order).is_ok()
    }
}

/// Runs one process, again and again.
struct Supervisor {
    program: &'static str,
    name: String,
    env: HashMap<String, String>,
    log: PathBuf,
    journal: Arc<Journal>,
    is_running: Arc<AtomicBool>,
    /// How wrong the clock of the next process is.
    wrong_by: Option<WrongClock>,
}

/// A clock that is wrong for a while.
#[derive(Clone, Copy)]
struct WrongClock {
    minutes: i32,
    lasts: Duration,
    /// When the process before was killed for it.
    from: At,
}

/// What ended a process.
enum End {
    /// A fault of this kind, which began then; the process is started again after a while.
    Fault(Kind, At, Duration),
    /// It ended although nobody wanted it.
    ByItself(String),
    /// The run is over.
    Over,
}

impl Supervisor {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut fault = None;
        loop {
            let clock = self.wrong_by.take();
            let process = match self.process(clock).await {
                Ok(process) => process,
                Err(why) => {
                    self.note(&format!("chaos: {} did not start: {why:#}\n", self.name));
                    if orders.is_closed() {
                        return;
                    }
                    self.wrong_by = clock;
                    tokio::time::sleep(START_PAUSE).await;
                    continue;
                }
            };
            self.is_running.store(true, Ordering::SeqCst);
            // A fault is over when a process with the right time runs again.
            if let Some((kind, from)) = fault.take().filter(|_| clock.is_none()) {
                self.journal.happened(kind, self.name.as_str(), from);
            }
            let end = self.watch(process, &mut orders, clock).await;
            self.is_running.store(false, Ordering::SeqCst);
            match end {
                End::Fault(kind, from, pause) => {
                    fault = Some((kind, from));
                    tokio::time::sleep(pause).await;
                }
                End::ByItself(why) => {
                    self.journal.offence("a process ends only when it is told to", format!("{}: {why}", self.name));
                }
                End::Over => return,
            }
        }
    }

    /// Starts the process; its clock may be wrong.
    async fn process(&self, clock: Option<WrongClock>) -> Result<Process> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut env = self.env.clone();
        if let (Some(WrongClock { minutes, .. }), Some(library)) = (clock, fake_time()) {
            env.insert("LD_PRELOAD".to_owned(), library.to_owned());
            env.insert("FAKETIME".to_owned(), format!("{:+}s", minutes * 60));
            // Only the time of day is wrong: a machine measures spans of time well, whatever its clock says.
            env.insert("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned());
        }
        Process::start_logging_to(Stdio::from(log), self.program, "debug", &env).await
    }

    /// Watches the process until it has ended. One with a wrong clock is killed when its time is over.
    async fn watch(
        &mut self,
        mut process: Process,
        orders: &mut mpsc::Receiver<Order>,
        wrong: Option<WrongClock>,
    ) -> End {
        let clock = self.journal.clock;
        let its_time = async {
            let Some(WrongClock { lasts, from, .. }) = wrong else { return std::future::pending().await };
            tokio::time::sleep(lasts).await;
            from
        };
        tokio::pin!(its_time);
        loop {
            let order = tokio::select! {
                why = process.ended() => return End::ByItself(why),
                from = &mut its_time => {
                    process.kill().await;
                    return End::Fault(Kind::ClockWrong, from, Duration::ZERO);
                }
                order = orders.recv() => order,
            };
            let from = clock.now();
            let killed = if self.program == "api" { Kind::ApiKilled } else { Kind::WorkerKilled };
            match order {
                None => {
                    self.stop(process).await;
                    return End::Over;
                }
                Some(Order::Kill(pause)) => {
                    process.kill().await;
                    return End::Fault(killed, from, pause);
                }
                Some(Order::Terminate(pause)) => {
                    self.stop(process).await;
                    return End::Fault(Kind::ProcessStopped, from, pause);
                }
                Some(Order::SetClock(minutes, lasts)) => {
                    process.kill().await;
                    self.wrong_by = Some(WrongClock { minutes, lasts, from });
                    return End::Fault(Kind::ClockWrong, from, Duration::ZERO);
                }
                Some(Order::Freeze(kind, lasts)) => {
                    process.signal(Signal::STOP);
                    tokio::time::sleep(lasts).await;
                    process.signal(Signal::CONT);
                    self.journal.happened(kind, self.name.as_str(), from);
                }
            }
        }
    }

    async fn stop(&self, process: Process) {
        if let Err(why) = process.stop().await {
            self.journal.offence("a process that gets SIGTERM ends well", format!("{}: {why:#}", self.name));
        }
    }

    /// Writes a line into the log of the process.
    fn note(&self, line: &str) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let _ = log.and_then(|mut log: File| std::io::Write::write_all(&mut log, line.as_bytes()));
    }
}

/// The library that makes a process see another time; `None` where it is not installed.
#[must_use]
pub fn fake_time() -> Option<&'static str> {
    FAKE_TIME.into_iter().find(|path| Path::new(path).exists())
}

/// The URL of this database through a proxy. It asks for no TLS, so that the proxy can read where messages end.
#[must_use]
pub fn through(database: &str, proxy: &Proxy) -> String {
    let (head, name) = database.rsplit_once('/').unwrap_or((database, ""));
    let user = head.rsplit_once('@').map_or(head, |(user, _)| user);
    format!("{user}@{}/{name}?sslmode=disable", proxy.address)
}

/// Where the server of this database listens.
///
/// # Errors
/// When the URL has no address with a port.
pub fn database_address(database: &str) -> Result<std::net::SocketAddr> {
    let address = database.split(['@', '/']).find(|part| part.starts_with("127.0.0.1:"));
    address.and_then(|address| address.parse().ok()).with_context(|| format!("no address in {database}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_leads_through_a_proxy() {
        let url = "postgres://postgres@127.0.0.1:5433/postgres";
        let proxy = Proxy::start(database_address(url).expect("it has an address")).await.expect("a free port");
        let expected = format!("postgres://postgres@{}/postgres?sslmode=disable", proxy.address);
        assert_eq!(through(url, &proxy), expected);
    }
}
