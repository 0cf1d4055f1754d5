//! The addresses that belong to the public internet, by the IANA registries. Which other addresses are allowed is the
//! operator's decision; see [`super::TargetPolicy`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether the address is globally reachable, by the IANA special-purpose registries (RFC 6890 and its updates). An
/// IPv6 address that contains an IPv4 address must pass both rules.
pub(super) fn is_public(address: IpAddr) -> bool {
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
    // ISATAP (RFC 5214) puts an IPv4 address behind any prefix.
    if matches!(segments[4..6], [0 | 0x200, 0x5efe]) && !embedded(segments[6], segments[7]) {
        return false;
    }
    match segments {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056) addresses are judged by the IPv4 address that they contain.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments (Teredo, ORCHID and others), documentation.
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        // Global unicast is 2000::/3; everything outside it is loopback, local, multicast, mapped or unassigned.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every range of the IANA special-purpose registries for IPv4 and IPv6 (October 2025), multicast, and forms that
    /// contain another address: a description, the first and the last address of each.
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

    /// Neighbors of the ranges above, special ranges that everybody can reach, and forms that contain a public address.
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

    fn canonical(address: &str) -> IpAddr {
        address.parse::<IpAddr>().expect(address).to_canonical()
    }

    #[test]
    fn only_the_public_internet() {
        for (what, first, last) in REFUSED {
            for address in [first, last] {
                assert!(!is_public(canonical(address)), "{address} is not public: {what}");
            }
        }
        for address in PUBLIC {
            assert!(is_public(canonical(address)), "{address} is public");
        }
    }
}
