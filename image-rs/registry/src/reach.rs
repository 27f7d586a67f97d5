//! How far an address reaches, so that a registry on the internet cannot send us into the network we are in.
//!
//! Ranges of the IANA special-purpose address registries (RFC 6890): loopback; link-local, where clouds answer with
//! credentials of the machine; everything else that is not globally routed. An IPv6 address that stands for an IPv4 one
//! (RFC 4291, 6052, 3056) counts as that one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where clouds answer with a machine's own credentials although the address is not link-local: Alibaba Cloud, Oracle
/// Cloud, and the platform of Azure.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
/// The same for IPv6, by their first segments: Amazon's services of an instance, and Google's.
const METADATA_V6: [[u16; 2]; 2] = [[0xfd00, 0x0ec2], [0xfd20, 0x00ce]];

/// Who can have an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Anybody on the internet.
    Global,
    /// Somebody in a network of the operator's.
    Private,
    /// Somebody on the same wire, or the cloud's own services for this machine.
    Link,
    /// This machine.
    Loopback,
}

impl Reach {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        match (a, b, c) {
            (127, ..) => Self::Loopback,
            (169, 254, _) => Self::Link,
            _ if METADATA_V4.contains(&address) => Self::Link,
            (0 | 10 | 224..=255, ..)
            | (100, 64..=127, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113) => {
                // 0.0.0.0 is this machine as well.
                if address.is_unspecified() { Self::Loopback } else { Self::Private }
            }
            _ => Self::Global,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if address.is_loopback() || address.is_unspecified() {
            return Self::Loopback;
        }
        let [a, b, c, d, e, f, g, h] = address.segments();
        let embedded = match (a, b, c, d, e, f) {
            // IPv4-mapped, IPv4-compatible, and the translation prefix.
            (0, 0, 0, 0, 0, 0 | 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some((g, h)),
            (0x2002, ..) => Some((b, c)),
            _ => None,
        };
        match (embedded, a) {
            (Some((high, low)), _) => {
                let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
                Self::of_v4(Ipv4Addr::new(a, b, c, d))
            }
            (None, 0xfe80..=0xfebf) => Self::Link,
            (None, _) if METADATA_V6.iter().any(|prefix| address.segments().starts_with(prefix)) => {
                Self::Link
            }
            (None, 0x2000..=0x3fff) => Self::Global,
            _ => Self::Private,
        }
    }

    /// Whether somebody who has an address of this reach may send us to another one of reach `to`.
    pub(crate) fn may_lead_to(self, to: Self) -> bool {
        to == Self::Global
            || (to == self && to != Self::Link)
            || (self == Self::Loopback && to == Self::Private)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        use Reach::{Global, Link, Loopback, Private};
        for (address, reach) in [
            ("8.8.8.8", Global),
            ("2001:4860:4860::8888", Global),
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("0.0.0.0", Loopback),
            ("::1", Loopback),
            ("::", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("64:ff9b::7f00:1", Loopback),
            ("2002:7f00:1::1", Loopback),
            ("169.254.169.254", Link),
            ("::ffff:169.254.169.254", Link),
            ("::169.254.169.254", Link),
            ("fe80::1", Link),
            ("100.100.100.200", Link),
            ("::ffff:100.100.100.200", Link),
            ("192.0.0.192", Link),
            ("168.63.129.16", Link),
            ("100.100.100.201", Private),
            ("fd00:ec2::254", Link),
            ("fd00:ec2::23", Link),
            ("fd20:ce::254", Link),
            ("fd00:ec3::254", Private),
            ("febf::1", Link),
            ("10.0.0.1", Private),
            ("0.1.2.3", Private),
            ("172.16.0.1", Private),
            ("172.32.0.1", Global),
            ("192.168.1.1", Private),
            ("100.64.0.1", Private),
            ("100.128.0.1", Global),
            ("198.18.0.1", Private),
            ("224.0.0.1", Private),
            ("255.255.255.255", Private),
            ("fd00::1", Private),
            ("fec0::1", Private),
            ("ff02::1", Private),
            ("2002:a00:1::1", Private),
            ("64:ff9b:1::1", Private),
        ] {
            assert_eq!(Reach::of(address.parse().unwrap()), reach, "{address}");
        }
    }

    #[test]
    fn nobody_leads_nearer_than_he_is() {
        use Reach::{Global, Link, Loopback, Private};
        for (from, to, may) in [
            (Global, Global, true),
            (Global, Private, false),
            (Global, Link, false),
            (Global, Loopback, false),
            (Private, Private, true),
            (Private, Link, false),
            (Private, Loopback, false),
            (Loopback, Loopback, true),
            (Loopback, Private, true),
            (Loopback, Link, false),
            (Link, Global, true),
            (Link, Link, false),
        ] {
            assert_eq!(from.may_lead_to(to), may, "{from:?} to {to:?}");
        }
    }
}
