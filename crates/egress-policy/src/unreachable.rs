//! What no sandbox reaches under any policy, unless operator and policy both name it.

use crate::cidr::{Cidr, CidrError, merged};
use std::net::Ipv4Addr;

/// The fixed denials, and what each network is: RFC 6890 and its registry, multicast, class E, and the one
/// public address at which a cloud serves its machines.
pub const UNREACHABLE: &[(&str, &str)] = &[
    ("0.0.0.0/8", "\"this\" network (RFC 791)"),
    ("10.0.0.0/8", "private (RFC 1918)"),
    ("100.64.0.0/10", "shared address space of carriers (RFC 6598)"),
    ("127.0.0.0/8", "loopback (RFC 1122)"),
    ("168.63.129.16/32", "Azure's platform, cloud metadata"),
    ("169.254.0.0/16", "link-local, cloud metadata (RFC 3927)"),
    ("172.16.0.0/12", "private (RFC 1918)"),
    ("192.0.0.0/24", "IETF protocol assignments (RFC 6890)"),
    ("192.0.2.0/24", "documentation (RFC 5737)"),
    ("192.88.99.0/24", "6to4 relays (RFC 7526)"),
    ("192.168.0.0/16", "private (RFC 1918)"),
    ("198.18.0.0/15", "benchmarks (RFC 2544)"),
    ("198.51.100.0/24", "documentation (RFC 5737)"),
    ("203.0.113.0/24", "documentation (RFC 5737)"),
    ("224.0.0.0/4", "multicast (RFC 5771)"),
    ("240.0.0.0/4", "reserved, broadcast (RFC 1112)"),
];

/// What not even the operator opens.
const NEVER_OPEN: &[(&str, &str)] = &[
    ("0.0.0.0/8", "\"this\" network"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "Azure's platform"),
    ("169.254.169.254/32", "the metadata address"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "class E"),
];

static NETWORKS: [Cidr; UNREACHABLE.len()] = parsed(UNREACHABLE);
static CLOSED: [Cidr; NEVER_OPEN.len()] = parsed(NEVER_OPEN);

/// Why no sandbox reaches the address, if so.
pub(crate) fn why(address: Ipv4Addr) -> Option<&'static str> {
    NETWORKS.iter().zip(UNREACHABLE).find(|(network, _)| network.contains(address)).map(|(_, (_, what))| *what)
}

/// Why no sandbox reaches any of the network, if so.
pub(crate) fn why_all_of(cidr: &Cidr) -> Option<&'static str> {
    let inside = |(first, last): &(Ipv4Addr, Ipv4Addr)| *first <= cidr.first() && cidr.last() <= *last;
    if merged(&NETWORKS).iter().any(inside) { why(cidr.first()) } else { None }
}

/// An entry of the operator's list of private networks that a policy may open by naming them. Loopback, 0.0.0.0/8,
/// multicast, class E and the metadata address can't be in it.
pub fn operator_cidr(text: &str) -> Result<Cidr, CidrError> {
    let cidr = Cidr::parse(text)?;
    match never_open().find(|(closed, _)| closed.common(&cidr).is_some()) {
        Some((_, what)) => Err(CidrError::NeverOpen { what }),
        None => Ok(cidr),
    }
}

fn never_open() -> impl Iterator<Item = (Cidr, &'static str)> {
    CLOSED.iter().copied().zip(NEVER_OPEN.iter().map(|(_, what)| *what))
}

/// Read by the compiler, which refuses a table that is wrong.
const fn parsed<const N: usize>(table: &[(&str, &str)]) -> [Cidr; N] {
    let mut networks = [Cidr::new(Ipv4Addr::UNSPECIFIED, 0); N];
    let mut at = 0;
    while at < N {
        networks[at] = literal(table[at].0.as_bytes());
        at += 1;
    }
    networks
}

const fn literal(text: &[u8]) -> Cidr {
    let (mut octets, mut octet, mut number, mut at) = ([0; 4], 0, 0, 0);
    while at < text.len() {
        match text[at] {
            digit @ b'0'..=b'9' => number = number * 10 + (digit - b'0'),
            b'.' | b'/' => {
                octets[octet] = number;
                octet += 1;
                number = 0;
            }
            _ => panic!("not a network"),
        }
        at += 1;
    }
    assert!(octet == 4 && number <= 32, "not a network");
    Cidr::new(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]), number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_reads_the_tables_as_the_parser_does() {
        for (network, (text, _)) in NETWORKS.iter().zip(UNREACHABLE).chain(CLOSED.iter().zip(NEVER_OPEN)) {
            assert_eq!(Cidr::parse(text).as_ref(), Ok(network));
            assert_eq!(network.to_string(), *text);
        }
    }

    #[test]
    fn what_is_never_open_is_unreachable_to_begin_with() {
        for (network, _) in never_open() {
            assert!(why_all_of(&network).is_some(), "{network}");
        }
    }
}
