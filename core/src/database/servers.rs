//! Several servers of which one takes writes: a primary and its standbys. The driver knows one server for a pool, so
//! this looks for the one that takes writes, and points every pool to it when it changes. The pools themselves drop
//! sessions that no longer work.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{ConnectOptions, PgConnection, PgPool, postgres::PgConnectOptions};

use super::health::{TEST_TIMEOUT, is_of_use, suspect_sessions};

/// How often the server in use is tested.
const TEST_EVERY: Duration = Duration::from_millis(500);
/// How long to pause after no server has taken writes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The parameter that libpq knows for several servers.
const SESSION_ATTRIBUTES: &str = "target_session_attrs";
/// What is told about a URL that cannot be read. The parser's own message may repeat the text, and the text holds a
/// password.
const MALFORMED: &str = "must be a URL such as postgres://user:password@host:5432/database; several hosts are \
                         separated by commas";

/// The servers of one `DATABASE_URL`, and which of them is in use. Clones share that.
#[derive(Clone, Debug, Default)]
pub struct Servers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Host and port of each.
    addresses: Vec<(String, u16)>,
    /// The place in the list of the one in use.
    current: AtomicUsize,
    /// The pools that are pointed to it. While there is one, a task watches the servers.
    pools: Mutex<Vec<PgPool>>,
}

impl Servers {
    /// Reads a URL that may name several hosts, as in `postgres://user:password@one:5432,two:5432/database`; returns
    /// the options for the first as well.
    ///
    /// # Errors
    /// What is wrong, without repeating the URL.
    pub fn parse(url: &str) -> Result<(PgConnectOptions, Self), String> {
        let (scheme, rest) = url.split_once("://").ok_or(MALFORMED)?;
        if !["postgres", "postgresql"].contains(&scheme) {
            return Err(MALFORMED.to_owned());
        }
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let at = if authority.contains('@') { "@" } else { "" };
        let tail = without_session_attributes(tail)?;
        let parse = |host: &str| -> Result<PgConnectOptions, String> {
            format!("{scheme}://{user}{at}{host}{tail}").parse().map_err(|_| MALFORMED.to_owned())
        };
        let hosts: Vec<_> = hosts.split(',').collect();
        if hosts.len() > 1 && hosts.contains(&"") {
            return Err(MALFORMED.to_owned());
        }
        let options: Vec<_> = hosts.into_iter().map(parse).collect::<Result<_, _>>()?;
        let addresses = options.iter().map(|options| (options.get_host().to_owned(), options.get_port())).collect();
        let first = options.into_iter().next().ok_or(MALFORMED)?;
        Ok((first, Self(Arc::new(Inner { addresses, ..Inner::default() }))))
    }

    /// Whether there are several servers.
    fn are_many(&self) -> bool {
        self.0.addresses.len() > 1
    }

    /// The same options, for the server in use. Where there is one only, they are not changed.
    pub(super) fn direct(&self, options: PgConnectOptions) -> PgConnectOptions {
        self.direct_to(self.0.current.load(Ordering::Relaxed), options)
    }

    fn direct_to(&self, index: usize, options: PgConnectOptions) -> PgConnectOptions {
        match self.0.addresses.get(index) {
            Some((host, port)) if self.are_many() => options.host(host).port(*port),
            _ => options,
        }
    }

    /// Opens a session on the server that takes writes, of several; where there is one only, on that one, whether it
    /// takes writes or not.
    ///
    /// # Errors
    /// The error of the last server that was tried, or that none takes writes.
    pub(super) async fn connect(&self, options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
        if !self.are_many() {
            return options.connect().await;
        }
        let begin = self.0.current.load(Ordering::Relaxed);
        let mut last = sqlx::Error::Protocol("no server takes writes".to_owned());
        for step in 0..self.0.addresses.len() {
            let index = (begin + step) % self.0.addresses.len();
            match self.try_connect(index, options).await {
                Ok(Some(connection)) => {
                    self.choose(index);
                    return Ok(connection);
                }
                Ok(None) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Opens a session on this server; `None` where it takes no writes or does not answer in time.
    async fn try_connect(&self, index: usize, options: &PgConnectOptions) -> Result<Option<PgConnection>, sqlx::Error> {
        let options = self.direct_to(index, options.clone());
        let Ok(connected) = tokio::time::timeout(TEST_TIMEOUT, options.connect()).await else { return Ok(None) };
        let mut connection = connected?;
        Ok(is_of_use(&mut connection).await.then_some(connection))
    }

    /// Points all pools to this server, unless they are already.
    fn choose(&self, index: usize) {
        if self.0.current.swap(index, Ordering::Relaxed) == index {
            return;
        }
        let pools = self.0.pools.lock().expect("nothing panics while it is held");
        for pool in pools.iter() {
            pool.set_connect_options(self.direct_to(index, (*pool.connect_options()).clone()));
        }
        // Sessions with the server before may still seem to work.
        suspect_sessions();
        if let Some((host, port)) = self.0.addresses.get(index) {
            tracing::warn!(host, port, "this server takes the writes now");
        }
    }

    /// From now on points this pool to the server that takes writes. That needs a task, which ends when all pools are
    /// closed.
    pub(super) fn follow(&self, pool: &PgPool) {
        if !self.are_many() {
            return;
        }
        let mut pools = self.0.pools.lock().expect("nothing panics while it is held");
        let is_first = pools.is_empty();
        pools.push(pool.clone());
        // It may have changed before the pool was in the list.
        pool.set_connect_options(self.direct((*pool.connect_options()).clone()));
        drop(pools);
        if is_first {
            let (servers, options) = (self.clone(), (*pool.connect_options()).clone());
            tokio::spawn(async move { servers.watch(options).await });
        }
    }

    async fn watch(self, options: PgConnectOptions) {
        let mut session = None;
        while self.has_pools() {
            let works = match &mut session {
                Some(session) => is_of_use(session).await,
                None => false,
            };
            if works {
                tokio::time::sleep(TEST_EVERY).await;
                continue;
            }
            if session.take().is_some() {
                suspect_sessions();
            }
            match self.connect(&options).await {
                Ok(connection) => session = Some(connection),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Forgets the pools that are closed; returns whether any is left.
    fn has_pools(&self) -> bool {
        let mut pools = self.0.pools.lock().expect("nothing panics while it is held");
        pools.retain(|pool| !pool.is_closed());
        !pools.is_empty()
    }
}

/// Takes the parameter that tells which server is wanted out of the end of a URL. We always want the one that takes
/// writes.
fn without_session_attributes(tail: &str) -> Result<String, String> {
    let Some((path, query)) = tail.split_once('?') else { return Ok(tail.to_owned()) };
    let mut kept = Vec::new();
    for parameter in query.split('&') {
        match parameter.split_once('=') {
            Some((SESSION_ATTRIBUTES, "read-write" | "primary")) => {}
            Some((SESSION_ATTRIBUTES, _)) => {
                return Err(format!("{SESSION_ATTRIBUTES} must be `read-write` or `primary`: every process writes"));
            }
            _ => kept.push(parameter),
        }
    }
    Ok(if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_or_several() {
        let url = "postgres://me:p%40ss@one:5433,two,[::1]:5434/data?sslmode=disable&target_session_attrs=read-write";
        let (options, servers) = Servers::parse(url).expect("it is valid");
        let addresses: Vec<_> = servers.0.addresses.iter().map(|(host, port)| (host.as_str(), *port)).collect();
        assert_eq!(addresses, [("one", 5433), ("two", 5432), ("[::1]", 5434)]);
        assert_eq!((options.get_host(), options.get_username(), options.get_database()), ("one", "me", Some("data")));
        servers.0.current.store(1, Ordering::Relaxed);
        let directed = servers.direct(options);
        assert_eq!((directed.get_host(), directed.get_port()), ("two", 5432));

        let (options, servers) = Servers::parse("postgresql:///data?host=/run/postgresql").expect("it is valid");
        assert!(!servers.are_many());
        let told = format!("{:?}", servers.direct(options));
        assert!(told.contains("/run/postgresql"), "{told}");
    }

    #[test]
    fn mistakes_are_told_without_the_password() {
        let cases = [
            ("postgres//user:hunter2@host", "must be a URL"),
            ("mysql://user:hunter2@host/", "must be a URL"),
            ("postgres://user:hunter2@one,,two/", "must be a URL"),
            ("postgres://user:hunter2@one,two:port/", "must be a URL"),
            ("postgres://user:hunter2@one,two/?target_session_attrs=any", "must be `read-write`"),
        ];
        for (url, problem) in cases {
            let told = Servers::parse(url).expect_err(url);
            assert!(told.contains(problem) && !told.contains("hunter2"), "{url}: {told}");
        }
    }
}
