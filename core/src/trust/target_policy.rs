//! The targets to which a delivery may be sent. A webhook sender makes requests to addresses that strangers choose, so
//! every address outside the public internet is refused, unless the operator allows its network. The same policy judges
//! a target when it is chosen, and again whenever a connection is made.

mod public_address;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;

use self::public_address::is_public;
use url::{Host, Url};

use crate::trust::dns::Dns;

/// How long a DNS look-up may take when a target is chosen. A name that has not resolved by then is accepted, and
/// judged at each connection.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Ports of other protocols, whose servers could take parts of an HTTP request for their own commands (WHATWG Fetch,
/// "Port blocking").
const FOREIGN_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
    110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060,
    5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

/// Domains whose names are valid in a local network only: by RFC 8375, by ICANN's reservation of 2024, and by RFC 6762.
const LOCAL_DOMAINS: [&str; 3] = ["home.arpa", "internal", "local"];

/// The targets that the operator allows: public addresses, and some private networks.
#[derive(Clone, Default)]
pub struct TargetPolicy {
    /// Networks that are allowed although their addresses are not public.
    pub allowed_private: Vec<IpNet>,
    /// Whether only `https` URLs are allowed.
    pub is_https_only: bool,
    /// Where the demo receivers are, which are allowed whatever the other rules say; `None` where there is no demo.
    pub demo: Option<SocketAddr>,
    /// The way in which names are looked up.
    pub dns: Dns,
}

impl fmt::Debug for TargetPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allowed_private, is_https_only, demo, dns: _ } = self;
        f.debug_struct("TargetPolicy")
            .field("allowed_private", allowed_private)
            .field("is_https_only", is_https_only)
            .field("demo", demo)
            .finish_non_exhaustive()
    }
}

/// Why a delivery may not be sent to a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// The address is not public, and its network is not allowed.
    #[error("{0} is not a public address, and its network is not allowed by the operator")]
    Address(IpAddr),
    /// None of the name's addresses is public or allowed. The message does not show them, because the owner of a
    /// subscription would learn what the operator's resolver knows.
    #[error("{0} has no public address, and its network is not allowed by the operator")]
    Name(String),
    /// Only this machine or a local network knows the name, and the operator allows no network that it could be in.
    #[error("{0} is a name for local use, and the operator allows no network that it could be in")]
    LocalName(String),
    /// The URL is not `https`, and the operator allows nothing else.
    #[error("the operator allows only https")]
    NotHttps,
    /// The port belongs to another protocol.
    #[error("port {0} belongs to another protocol")]
    Port(u16),
}

/// Why a name cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The name has no address, or cannot be looked up.
    #[error("the host's name does not resolve: {0}")]
    Unresolved(String),
    /// Too many names are being looked up at the moment, which is not this name's fault.
    #[error("too many names are being looked up")]
    Busy,
    /// The name has no address that deliveries may be sent to.
    #[error(transparent)]
    Blocked(#[from] Blocked),
}

impl TargetPolicy {
    /// Parses a comma-separated list of CIDR networks; an empty text means none.
    ///
    /// # Errors
    /// The item that is not a network.
    pub fn networks(text: &str) -> Result<Vec<IpNet>, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| item.parse().map_err(|_| format!("`{item}` is not a network such as 10.0.0.0/8"))).collect()
    }

    /// Whether a request may be sent to this address.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.allowed_private.iter().any(|network| network.contains(&address))
    }

    /// Judges what the text of a URL shows: its scheme, its port, and its host if that is an address or a local name.
    ///
    /// # Errors
    /// Why no request may be sent there.
    pub fn check(&self, url: &Url) -> Result<(), Blocked> {
        if self.is_demo(url) {
            return Ok(());
        }
        if self.is_https_only && url.scheme() != "https" {
            return Err(Blocked::NotHttps);
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if FOREIGN_PORTS.contains(&port) {
            return Err(Blocked::Port(port));
        }
        match (literal_address(url), url.domain()) {
            (Some(address), _) if !self.allows(address) => Err(Blocked::Address(address)),
            (None, Some(name)) if !self.allows_name(name) => Err(Blocked::LocalName(name.to_owned())),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// Whether the URL is that of a demo receiver. Its host has to be the address itself: a name is judged by what it
    /// resolves to, whichever port it is asked for.
    fn is_demo(&self, url: &Url) -> bool {
        let address = literal_address(url).zip(url.port_or_known_default()).map(SocketAddr::from);
        self.demo.is_some() && url.scheme() == "http" && address == self.demo
    }

    /// Whether the name could lead to an allowed address. Names under `localhost` mean this machine (RFC 6761 §6.3),
    /// whoever resolves them. Names of the other local domains may be in any network that the operator allows.
    fn allows_name(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        let is_in =
            |domain: &str| name.strip_suffix(domain).is_some_and(|below| below.is_empty() || below.ends_with('.'));
        if is_in("localhost") {
            return self.allows(Ipv4Addr::LOCALHOST.into()) || self.allows(Ipv6Addr::LOCALHOST.into());
        }
        !self.allowed_private.is_empty() || !LOCAL_DOMAINS.into_iter().any(is_in)
    }

    /// The addresses of a host that deliveries may be sent to; there is at least one.
    ///
    /// # Errors
    /// Why there is no such address.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Unreachable> {
        let found = self.dns.0.addresses(host).await.map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => Unreachable::Busy,
            _ => Unreachable::Unresolved(error.to_string()),
        })?;
        let vetted: Vec<_> = found.iter().copied().filter(|address| self.allows(*address)).collect();
        match (vetted.is_empty(), found.first()) {
            (false, _) => Ok(vetted),
            (true, Some(first)) => {
                tracing::debug!(host, address = %first, "a target's name leads to where nothing may be sent");
                Err(Blocked::Name(host.to_owned()).into())
            }
            (true, None) => Err(Unreachable::Unresolved("no addresses".to_owned())),
        }
    }

    /// Judges a target when it is chosen. A name that cannot be looked up at the moment is accepted, because it is
    /// judged again at each connection.
    ///
    /// # Errors
    /// Why no request may be sent there.
    pub async fn vet(&self, url: &Url) -> Result<(), Blocked> {
        self.check(url)?;
        let Some(host) = url.domain() else { return Ok(()) };
        match tokio::time::timeout(LOOKUP_TIMEOUT, self.resolve(host)).await {
            Ok(Err(Unreachable::Blocked(blocked))) => Err(blocked),
            Ok(Ok(_) | Err(Unreachable::Unresolved(_) | Unreachable::Busy)) | Err(_) => Ok(()),
        }
    }
}

/// The address in a URL whose host is an address and not a name.
#[must_use]
pub fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, sync::Arc};

    use super::*;
    use crate::trust::dns::Lookup;

    fn private(networks: &str) -> TargetPolicy {
        let allowed_private = TargetPolicy::networks(networks).expect("valid");
        TargetPolicy { allowed_private, ..TargetPolicy::default() }
    }

    #[test]
    fn private_networks_by_name() {
        let policy = private(" 127.0.0.0/8, ::1/128 ");
        for (address, allowed) in [("127.0.0.1", true), ("::ffff:127.0.0.1", true), ("::1", true), ("10.0.0.1", false)]
        {
            assert_eq!(policy.allows(address.parse().expect(address)), allowed, "{address}");
        }
        assert!(TargetPolicy::networks("localhost").is_err());
        assert!(TargetPolicy::networks("").expect("none").is_empty());
    }

    #[test]
    fn ports_and_schemes() {
        let check = |policy: &TargetPolicy, text: &str| policy.check(&text.parse().expect(text));
        let policy = TargetPolicy::default();
        for (text, verdict) in [
            ("http://example.com/", Ok(())),
            ("http://example.com:8080/", Ok(())),
            ("https://example.com:443/", Ok(())),
            ("http://example.com:25/", Err(Blocked::Port(25))),
            ("https://example.com:0/", Err(Blocked::Port(0))),
            ("http://example.com:6667/", Err(Blocked::Port(6667))),
        ] {
            assert_eq!(check(&policy, text), verdict, "{text}");
        }
        let strict = TargetPolicy { is_https_only: true, ..private("127.0.0.0/8") };
        assert_eq!(check(&strict, "http://127.0.0.1/"), Err(Blocked::NotHttps));
        assert_eq!(check(&strict, "https://127.0.0.1/"), Ok(()));
        assert!(FOREIGN_PORTS.is_sorted());
    }

    #[test]
    fn of_this_machine_only_the_demo_receivers_are_allowed_by_the_demo() {
        let demo = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8089)));
        for is_https_only in [false, true] {
            let policy = TargetPolicy { is_https_only, demo, ..TargetPolicy::default() };
            for (text, allowed) in [
                ("http://127.0.0.1:8089/success", true),
                ("http://127.1:8089/", true),
                ("http://127.0.0.1:8080/success", false),
                ("http://127.0.0.1/", false),
                ("http://127.0.0.2:8089/", false),
                ("http://localhost:8089/", false),
                ("http://[::1]:8089/", false),
                ("https://127.0.0.1:8089/", false),
            ] {
                assert_eq!(policy.check(&text.parse().expect(text)).is_ok(), allowed, "{text}");
            }
            assert!(!policy.allows(Ipv4Addr::LOCALHOST.into()), "no name may lead there");
        }
    }

    #[test]
    fn names_for_local_use() {
        const OF_THIS_MACHINE: [&str; 4] = ["localhost", "LOCALHOST.", "api.localhost", "a.b.localhost."];
        const OF_A_NETWORK: [&str; 7] = [
            "internal",
            "metadata.google.internal",
            "x.internal.",
            "printer.local",
            "hooks.default.svc.cluster.local",
            "nas.home.arpa",
            "home.arpa.",
        ];
        const OTHERS: [&str; 8] = [
            "example.com",
            "localhost.example.com",
            "notlocalhost",
            "local.example.com",
            "mylocal",
            "internal.example.com.",
            "arpa",
            "home.arpa.example.com",
        ];
        for (networks, this_machine, a_network) in [
            ("", false, false),
            ("10.0.0.0/8", false, true),
            ("127.0.0.0/8", true, true),
            ("::1/128", true, true),
            ("10.0.0.0/8,127.0.0.1/32", true, true),
        ] {
            let policy = private(networks);
            let names = [(&OF_THIS_MACHINE[..], this_machine), (&OF_A_NETWORK[..], a_network), (&OTHERS[..], true)];
            for (name, allowed) in names.into_iter().flat_map(|(names, is)| names.iter().map(move |name| (name, is))) {
                let verdict = policy.check(&format!("http://{name}/").parse().expect(name));
                let expected = if allowed { Ok(()) } else { Err(Blocked::LocalName(name.to_lowercase())) };
                assert_eq!(verdict, expected, "{name}, allowed {networks:?}");
            }
        }
    }

    struct Answers(Vec<IpAddr>);

    impl Lookup for Answers {
        fn addresses<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>> {
            Box::pin(async { Ok(self.0.clone()) })
        }
    }

    #[tokio::test]
    async fn of_a_names_addresses_only_the_public_ones_are_handed_out() {
        let of = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| address.parse().expect(address)).collect();
            TargetPolicy { dns: Dns(Arc::new(Answers(addresses))), ..TargetPolicy::default() }
        };
        let target = "https://example.com/".parse().expect("valid");
        let mixed = of(&["10.0.0.1", "1.1.1.1", "::1"]);
        assert_eq!(mixed.resolve("example.com").await.expect("one"), ["1.1.1.1".parse::<IpAddr>().expect("valid")]);
        assert_eq!(mixed.vet(&target).await, Ok(()));
        let inside = of(&["10.0.0.1", "::1"]);
        assert!(matches!(inside.resolve("example.com").await, Err(Unreachable::Blocked(Blocked::Name(_)))));
        assert!(matches!(inside.vet(&target).await, Err(Blocked::Name(_))));
        let nowhere = of(&[]);
        assert!(matches!(nowhere.resolve("example.com").await, Err(Unreachable::Unresolved(_))));
        assert_eq!(nowhere.vet(&target).await, Ok(()), "it may be there tomorrow");
    }
}
