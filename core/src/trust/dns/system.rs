//! Looks up names as this system is configured to: first in its hosts file, then at its name servers. It does not
//! share, limit or cache look-ups; its caller does.

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

/// How long the system's configuration and hosts file are used before they are read again.
const SETTINGS_LIFE: Duration = Duration::from_secs(10);
/// How long a name server may take to answer before it or the next one is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// The system's resolver, with the configuration that was read last.
#[derive(Default)]
pub(super) struct SystemResolver {
    latest: Mutex<Option<(Instant, Arc<TokioResolver>)>>,
}

impl SystemResolver {
    /// All addresses of a host, IPv4 first.
    pub(super) async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // Some names that URLs allow and host names do not, such as labels ending in an underscore, do exist, so they
        // are accepted.
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
                // Somebody may be writing the file at this moment.
                if let Some((_, resolver)) = latest.take() {
                    tracing::warn!(%error, "the configuration of name servers could not be read; the old one is kept");
                    *latest = Some((Instant::now(), Arc::clone(&resolver)));
                    return Ok(resolver);
                }
                // Where there is no configuration, resolv.conf(5) says that this machine is the name server.
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
    // The caller caches answers.
    options.cache_size = 0;
    builder
}

/// The error in words for the log of attempts. It has the kind `ResourceBusy` where the fault is ours.
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

    /// Names that are resolved without asking a server: the hosts file contains `localhost` everywhere, and RFC 6761
    /// reserves the others.
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
