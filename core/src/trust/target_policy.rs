//! Which targets a delivery may be sent to. A webhook sender makes requests to addresses that strangers choose, so
//! everything that is not plainly the public internet is refused, unless the operator allows a network by name. The same
//! policy judges a target when it is chosen, and again each time a connection is made.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::IpNet;

use crate::trust::{dns::Dns, target_url::TargetUrl};

/// How long the look-up of a name may take when a target is chosen; a name that does not resolve by then is taken, and
/// judged at each connection.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Ports of other protocols, which could be made to read an HTTP request as commands of their own (WHATWG Fetch, "Port
/// blocking").
const FOREIGN_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
    110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060,
    5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

/// The operator's word on targets: public addresses, and these networks besides.
#[derive(Clone, Default)]
pub struct TargetPolicy {
    /// Networks that targets may be in although they are not public.
    pub allowed_private: Vec<IpNet>,
    /// Whether only `https` will do.
    pub is_https_only: bool,
    /// How names are looked up.
    pub dns: Dns,
}

impl fmt::Debug for TargetPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allowed_private, is_https_only, dns: _ } = self;
        f.debug_struct("TargetPolicy")
            .field("allowed_private", allowed_private)
            .field("is_https_only", is_https_only)
            .finish_non_exhaustive()
    }
}

/// Why a delivery may not go somewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// Not a public address.
    #[error("{0} is not a public address, and its network is not allowed by the operator")]
    Address(IpAddr),
    /// A name, none of whose addresses is public or allowed. Which they are is not told: the owner of a subscription
    /// would learn what the operator's resolver knows.
    #[error("{0} has no public address, and its network is not allowed by the operator")]
    Name(String),
    /// Not `https`.
    #[error("the operator allows only https")]
    NotHttps,
    /// Another protocol's port.
    #[error("port {0} belongs to another protocol")]
    Port(u16),
}

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// It has no address at all, or cannot be looked up.
    #[error("the host's name does not resolve: {0}")]
    Unresolved(String),
    /// Too many names are being looked up at the moment: not the name's fault.
    #[error("too many names are being looked up")]
    Busy,
    /// It has no address that deliveries may go to.
    #[error(transparent)]
    Blocked(#[from] Blocked),
}

impl TargetPolicy {
    /// Reads a comma-separated list of CIDR networks; empty means none.
    ///
    /// # Errors
    /// Which item is no network.
    pub fn networks(text: &str) -> Result<Vec<IpNet>, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| item.parse().map_err(|_| format!("`{item}` is not a network such as 10.0.0.0/8"))).collect()
    }

    /// Whether a request may be sent there.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.allowed_private.iter().any(|network| network.contains(&address))
    }

    /// Judges what the text of a target tells: its scheme, its port, and its host where that is an address.
    ///
    /// # Errors
    /// Why nothing may be sent there.
    pub fn check(&self, target: &TargetUrl) -> Result<(), Blocked> {
        let url = target.as_url();
        if self.is_https_only && url.scheme() != "https" {
            return Err(Blocked::NotHttps);
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if FOREIGN_PORTS.contains(&port) {
            return Err(Blocked::Port(port));
        }
        match target.literal_address() {
            Some(address) if !self.allows(address) => Err(Blocked::Address(address)),
            Some(_) | None => Ok(()),
        }
    }

    /// The addresses of a host that deliveries may go to; at least one.
    ///
    /// # Errors
    /// Why there is none.
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

    /// Judges a target when it is chosen. A name that cannot be looked up at the moment is taken: it is judged at each
    /// connection anyway.
    ///
    /// # Errors
    /// Why nothing may be sent there.
    pub async fn vet(&self, target: &TargetUrl) -> Result<(), Blocked> {
        self.check(target)?;
        let Some(host) = target.as_url().domain() else { return Ok(()) };
        match tokio::time::timeout(LOOKUP_TIMEOUT, self.resolve(host)).await {
            Ok(Err(Unreachable::Blocked(blocked))) => Err(blocked),
            Ok(Ok(_) | Err(Unreachable::Unresolved(_) | Unreachable::Busy)) | Err(_) => Ok(()),
        }
    }
}

/// Whether the address is globally reachable by the IANA special-purpose registries (RFC 6890 and its updates).
/// IPv6 forms that carry an IPv4 address are judged by both.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(a, 0 | 10 | 127 | 224..=255) // this network, private, loopback, multicast and reserved
        || (a == 100 && (64..128).contains(&b))         // carrier-grade NAT
        || (a == 169 && b == 254)                       // link-local, the clouds' metadata services among them
        || (a == 168 && b == 63 && c == 129)            // Azure's own services, reachable from its machines only
        || (a == 172 && (16..32).contains(&b))          // private
        || (a == 192 && b == 0 && (c == 0 || c == 2))   // protocol assignments, documentation
        || (a == 192 && b == 88 && c == 99)             // 6to4 relays
        || (a == 192 && b == 168)                       // private
        || (a == 198 && (b == 18 || b == 19))           // benchmarking
        || (a == 198 && b == 51 && c == 100)            // documentation
        || (a == 203 && b == 0 && c == 113); //            documentation
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    // ISATAP (RFC 5214) wraps an IPv4 address behind whatever prefix.
    if matches!(segments[4..6], [0 | 0x200, 0x5efe]) && !embedded(segments[6], segments[7]) {
        return false;
    }
    match segments {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056) are judged by the IPv4 address they wrap.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments (Teredo, ORCHID and others), documentation.
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        // Global unicast is 2000::/3; everything outside it is loopback, local, multicast, mapped or unassigned.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, sync::Arc};

    use super::*;
    use crate::trust::dns::Lookup;

    /// Every range of the IANA special-purpose registries for IPv4 and IPv6 (October 2025), multicast, and forms that
    /// wrap another address: what they are, their first and last addresses.
    const REFUSED: [(&str, &str, &str); 47] = [
        ("this network", "0.0.0.0", "0.255.255.255"),
        ("private use", "10.0.0.0", "10.255.255.255"),
        ("shared address space", "100.64.0.0", "100.127.255.255"),
        ("loopback", "127.0.0.0", "127.255.255.255"),
        ("link local, metadata services", "169.254.0.0", "169.254.255.255"),
        ("Azure's metadata and services", "168.63.129.0", "168.63.129.255"),
        ("NAT64 of Azure's services", "64:ff9b::168.63.129.16", "64:ff9b::168.63.129.16"),
        ("private use", "172.16.0.0", "172.31.255.255"),
        ("protocol assignments", "192.0.0.0", "192.0.0.255"),
        ("documentation", "192.0.2.0", "192.0.2.255"),
        ("6to4 relays", "192.88.99.0", "192.88.99.255"),
        ("private use", "192.168.0.0", "192.168.255.255"),
        ("benchmarking", "198.18.0.0", "198.19.255.255"),
        ("documentation", "198.51.100.0", "198.51.100.255"),
        ("documentation", "203.0.113.0", "203.0.113.255"),
        ("multicast", "224.0.0.0", "239.255.255.255"),
        ("reserved, limited broadcast", "240.0.0.0", "255.255.255.255"),
        ("unspecified, loopback", "::", "::1"),
        ("IPv4-compatible", "::2", "::ffff:ffff"),
        ("IPv4-mapped loopback", "::ffff:127.0.0.0", "::ffff:127.255.255.255"),
        ("IPv4-mapped private", "::ffff:10.0.0.0", "::ffff:10.255.255.255"),
        ("IPv4-mapped metadata", "::ffff:169.254.169.254", "::ffff:169.254.170.2"),
        ("IPv4-translated", "::ffff:0:0:0", "::ffff:0:ffff:ffff"),
        ("NAT64 of loopback", "64:ff9b::127.0.0.0", "64:ff9b::127.255.255.255"),
        ("NAT64 of private", "64:ff9b::192.168.0.0", "64:ff9b::192.168.255.255"),
        ("NAT64 of metadata", "64:ff9b::169.254.169.254", "64:ff9b::169.254.169.254"),
        ("local NAT64", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"),
        ("discard only, dummy", "100::", "100::1:ffff:ffff:ffff:ffff"),
        ("Teredo", "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("port control, TURN, DNS-SD anycast", "2001:1::1", "2001:1::3"),
        ("benchmarking", "2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff"),
        ("AMT", "2001:3::", "2001:3:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("AS112", "2001:4:112::", "2001:4:112:ffff:ffff:ffff:ffff:ffff"),
        ("ORCHID", "2001:10::", "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("ORCHIDv2", "2001:20::", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("drone remote ID", "2001:30::", "2001:3f:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("documentation", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("6to4 of private", "2002:a00::", "2002:aff:ffff::"),
        ("6to4 of loopback", "2002:7f00::", "2002:7fff:ffff::"),
        ("6to4 of metadata", "2002:a9fe:a9fe::", "2002:a9fe:a9fe::1"),
        ("ISATAP of private", "2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:192.168.0.1"),
        ("documentation", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("SRv6 SIDs", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("unique local, metadata services", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("link local", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("site local", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("multicast", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ];

    /// Neighbours of the ranges above, special ranges that are reachable by all, and wrapped public addresses.
    const PUBLIC: [&str; 30] = [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.31.196.1",
        "192.52.193.1",
        "192.167.255.255",
        "192.169.0.0",
        "192.175.48.1",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2001:200::1",
        "2606:4700::1111",
        "2606:4700::5efe:1.1.1.1",
        "2620:4f:8000::1",
        "2a00::1",
        "3ffe::1",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
        "2002:101:101::",
        "2001:4860:4860::8888",
    ];

    #[test]
    fn only_the_public_internet() {
        let policy = TargetPolicy::default();
        for (what, first, last) in REFUSED {
            for address in [first, last] {
                assert!(!policy.allows(address.parse().expect(address)), "{address} is not public: {what}");
            }
        }
        for address in PUBLIC {
            assert!(policy.allows(address.parse().expect(address)), "{address} is public");
        }
    }

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
        let check = |policy: &TargetPolicy, text: &str| policy.check(&TargetUrl::from_stored(text).expect(text));
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
        let target = TargetUrl::from_stored("https://example.com/").expect("valid");
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
