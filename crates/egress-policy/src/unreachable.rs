//! The closed addresses, which no sandbox reaches under any policy, unless operator and policy both name their network
//! and so open it ([`Evaluator::opened_networks`](crate::Evaluator::opened_networks)).

use crate::cidr::{Cidr, CidrError, merged};
use std::net::Ipv4Addr;

/// The networks of closed addresses, each with what it is: the special-purpose registry (RFC 6890), multicast, class E,
/// and the one public address at which a cloud serves its virtual machines.
pub const CLOSED_NETWORKS: &[(&str, &str)] = &[
    ("0.0.0.0/8", "\"this\" network (RFC 791)"),
    ("10.0.0.0/8", "private (RFC 1918)"),
    ("100.64.0.0/10", "shared address space of carriers (RFC 6598)"),
    ("127.0.0.0/8", "loopback (RFC 1122)"),
    // Public by registry, but on Azure it answers every virtual machine with its own configuration.
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

// Closed addresses that not even the operator can open. The proxy dials from the server's namespace, where loopback and
// 0.0.0.0 are the host itself, and where the metadata addresses answer with the host's own configuration and
// credentials.
const NEVER_OPENED: &[(&str, &str)] = &[
    ("0.0.0.0/8", "\"this\" network"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "Azure's platform"),
    ("169.254.169.254/32", "the metadata address"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "class E"),
];

static CLOSED: [Cidr; CLOSED_NETWORKS.len()] = parsed(CLOSED_NETWORKS);
static NEVER: [Cidr; NEVER_OPENED.len()] = parsed(NEVER_OPENED);

/// Returns what the address is, if it is closed.
pub(crate) fn why_closed(address: Ipv4Addr) -> Option<&'static str> {
    CLOSED.iter().zip(CLOSED_NETWORKS).find(|(network, _)| network.contains(address)).map(|(_, (_, what))| *what)
}

/// Returns what the network is, if all of its addresses are closed.
pub(crate) fn why_all_closed(cidr: &Cidr) -> Option<&'static str> {
    // Merged, because a network may be covered by several of the table's together (224.0.0.0/3).
    let inside = |(first, last): &(Ipv4Addr, Ipv4Addr)| *first <= cidr.first() && cidr.last() <= *last;
    if merged(&CLOSED).iter().any(inside) { why_closed(cidr.first()) } else { None }
}

/// Parses an entry of the operator's list of private networks (`egress_private_cidrs`), which a policy may open by
/// naming them. A network that contains loopback, 0.0.0.0/8, multicast, class E or a metadata address is refused.
pub fn operator_cidr(text: &str) -> Result<Cidr, CidrError> {
    let cidr = Cidr::parse(text)?;
    match never_opened().find(|(never, _)| never.common(&cidr).is_some()) {
        Some((_, what)) => Err(CidrError::NeverOpen { what }),
        None => Ok(cidr),
    }
}

fn never_opened() -> impl Iterator<Item = (Cidr, &'static str)> {
    NEVER.iter().copied().zip(NEVER_OPENED.iter().map(|(_, what)| *what))
}

// Parsed at compile time: a mistake in a table stops the build, and looking up an address needs no initialisation.
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
        for (network, (text, _)) in CLOSED.iter().zip(CLOSED_NETWORKS).chain(NEVER.iter().zip(NEVER_OPENED)) {
            assert_eq!(Cidr::parse(text).as_ref(), Ok(network));
            assert_eq!(network.to_string(), *text);
        }
    }

    #[test]
    fn what_is_never_open_is_unreachable_to_begin_with() {
        for (network, _) in never_opened() {
            assert!(why_all_closed(&network).is_some(), "{network}");
        }
    }
}
