//! Which addresses a delivery may be sent to. A webhook sender makes requests to addresses that strangers choose, so
//! everything that is not plainly the public internet is refused, unless the operator allows a network by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The operator's word on targets: public addresses, and these networks besides.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// Networks that targets may be in although they are not public.
    pub allowed_private: Vec<IpNet>,
}

impl AddressPolicy {
    /// Reads a comma-separated list of CIDR networks; empty means none.
    ///
    /// # Errors
    /// Which item is no network.
    pub fn parse(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let networks =
            items.map(|item| item.parse().map_err(|_| format!("`{item}` is not a network such as 10.0.0.0/8")));
        Ok(Self { allowed_private: networks.collect::<Result<_, String>>()? })
    }

    /// Whether a request may be sent there.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.allowed_private.iter().any(|network| network.contains(&address))
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
    use super::*;

    #[test]
    fn only_the_public_internet() {
        let public = [
            "1.1.1.1",
            "9.9.9.9",
            "100.63.255.255",
            "172.32.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "2002:101:101::",
        ];
        let refused = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        let policy = AddressPolicy::default();
        for address in public {
            assert!(policy.allows(address.parse().expect(address)), "{address} is public");
        }
        for address in refused {
            assert!(!policy.allows(address.parse().expect(address)), "{address} is not public");
        }
    }

    #[test]
    fn private_networks_by_name() {
        let policy = AddressPolicy::parse(" 127.0.0.0/8, ::1/128 ").expect("valid");
        for (address, allowed) in [("127.0.0.1", true), ("::ffff:127.0.0.1", true), ("::1", true), ("10.0.0.1", false)]
        {
            assert_eq!(policy.allows(address.parse().expect(address)), allowed, "{address}");
        }
        assert!(AddressPolicy::parse("localhost").is_err());
        assert!(AddressPolicy::parse("").expect("none").allowed_private.is_empty());
    }
}
