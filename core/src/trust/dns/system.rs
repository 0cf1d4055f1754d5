//! Asks for names as this system is configured to: its hosts file, then its name servers. It does not share, limit or
//! keep anything; that is done by its caller.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hickory_resolver::{
    ResolverBuilder, TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::Name,
};

use crate::error::is_out_of_files;

/// How long the system's configuration and hosts file are used before they are read anew.
const SETTINGS_LIFE: Duration = Duration::from_secs(10);
/// How long a name server may take, at most, before it or the next one is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// The resolver of this system, with its configuration of a moment ago.
#[derive(Default)]
pub(super) struct SystemResolver {
    latest: Mutex<Option<(Instant, Arc<TokioResolver>)>>,
}

impl SystemResolver {
    /// All addresses of a host, IPv4 first.
    pub(super) async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // What URLs allow and host names do not, such as an underscore at a label's end, is found where it exists.
        let name = Name::from_str_relaxed(host).map_err(io::Error::other)?;
        let resolver = self.resolver().map_err(told)?;
        Ok(resolver.lookup_ip(name).await.map_err(told)?.iter().collect())
    }

    fn resolver(&self) -> Result<Arc<TokioResolver>, NetError> {
        let mut latest = self.latest.lock().expect("nothing panics while it is held");
        if let Some((read_at, resolver)) = &*latest
            && read_at.elapsed() < SETTINGS_LIFE
        {
            return Ok(Arc::clone(resolver));
        }
        let builder = match TokioResolver::builder_tokio() {
            Ok(builder) => builder,
            Err(error) => {
                // The file may be just being written.
                if let Some((_, resolver)) = latest.take() {
                    tracing::warn!(%error, "the configuration of name servers could not be read; it stays as it was");
                    *latest = Some((Instant::now(), Arc::clone(&resolver)));
                    return Ok(resolver);
                }
                // Where there is none, resolv.conf(5) says to ask this machine.
                tracing::debug!(%error, "there is no configuration of name servers");
                let this_machine = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![this_machine]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let resolver = Arc::new(bounded(builder).build()?);
        *latest = Some((Instant::now(), Arc::clone(&resolver)));
        Ok(resolver)
    }
}

fn bounded(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> ResolverBuilder<TokioRuntimeProvider> {
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(ANSWER_TIMEOUT);
    // Answers are kept by the caller, for as long as it says.
    options.cache_size = 0;
    builder
}

/// An error in words for whoever reads the log of attempts; of the kind `ResourceBusy` where the fault is ours.
fn told(error: NetError) -> io::Error {
    match &error {
        NetError::Io(io) if is_out_of_files(io) => io::Error::new(io::ErrorKind::ResourceBusy, error.to_string()),
        NetError::Busy => io::Error::new(io::ErrorKind::ResourceBusy, error.to_string()),
        NetError::Timeout => io::Error::new(io::ErrorKind::TimedOut, "no answer from the name servers"),
        _ if error.is_nx_domain() => io::Error::new(io::ErrorKind::NotFound, "there is no such name"),
        _ if error.is_no_records_found() => io::Error::new(io::ErrorKind::NotFound, "it has no address"),
        _ => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told without asking anybody: the hosts file knows `localhost` everywhere, and RFC 6761 what follows.
    #[tokio::test]
    async fn names_of_this_machine_and_names_that_cannot_be() {
        let system = SystemResolver::default();
        for host in ["localhost", "localhost.", "LocalHost"] {
            let found = system.addresses(host).await.expect(host);
            assert!(found.contains(&IpAddr::from(Ipv4Addr::LOCALHOST)), "{host}: {found:?}");
            assert!(found.iter().all(IpAddr::is_loopback), "{host}: {found:?}");
        }
        let error = system.addresses("no-such-host.invalid.").await.expect_err("it does not exist");
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::NotFound, "there is no such name"));
        system.addresses(&"x".repeat(64)).await.expect_err("such a name cannot be");
    }
}
