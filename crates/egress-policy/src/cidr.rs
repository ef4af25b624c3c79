//! IPv4 networks: those of a policy's `allow_cidrs`, of the operator's list and of the fixed denials.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::ParseIntError;

/// An IPv4 network in CIDR notation, without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    first: Ipv4Addr,
    prefix: u8,
}

/// The reason a text is not a network, or not one that the operator may open. API clients read the text after the
/// entry's position, such as `allow_cidrs[2]: …`; operators read it when the server starts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("must be an IPv4 network such as 203.0.113.0/24, or an address")]
    Text,
    #[error("IPv6 is not supported: give an IPv4 network")]
    Ipv6,
    #[error("this is a domain: put it into allow_domains")]
    Domain,
    #[error("what follows the slash must be a length from 0 to 32")]
    Prefix,
    #[error("contains {what}, which stays closed to sandboxes")]
    NeverOpen { what: &'static str },
}

impl Cidr {
    /// Parses `a.b.c.d/n`, or an address alone, which counts as a /32. Host bits are cut off rather than refused.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let Ok(address) = address.parse::<Ipv4Addr>() else {
            return Err(not_an_address(address));
        };
        let prefix = match length {
            None => 32,
            // `u8::from_str` would accept a sign (`/+8`).
            Some(length) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
                length.parse().map_err(|_: ParseIntError| CidrError::Prefix)?
            }
            Some(_) => return Err(CidrError::Prefix),
        };
        if prefix > 32 {
            return Err(CidrError::Prefix);
        }
        Ok(Self::new(address, prefix))
    }

    /// Makes the network of that prefix length which contains the address. Lengths above 32 count as 32, so that the
    /// function can be `const` and total.
    pub(crate) const fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = if prefix > 32 { 32 } else { prefix };
        Self { first: Ipv4Addr::from_bits(address.to_bits() & !Self::host_bits(prefix)), prefix }
    }

    const fn host_bits(prefix: u8) -> u32 {
        // A shift by 32 would overflow.
        if prefix == 0 { u32::MAX } else { (1 << (32 - prefix)) - 1 }
    }

    pub fn first(&self) -> Ipv4Addr {
        self.first
    }

    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() | Self::host_bits(self.prefix))
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.first <= address && address <= self.last()
    }

    /// Whether all of `other` lies in this network.
    pub fn contains_all(&self, other: &Cidr) -> bool {
        self.contains(other.first) && self.contains(other.last())
    }

    /// The addresses that both networks have in common. Two CIDR networks never overlap partly: either one contains
    /// the other, or they are disjoint.
    pub(crate) fn common(&self, other: &Cidr) -> Option<Cidr> {
        if self.contains_all(other) {
            Some(*other)
        } else if other.contains_all(self) {
            Some(*self)
        } else {
            None
        }
    }
}

fn not_an_address(text: &str) -> CidrError {
    if text.parse::<Ipv6Addr>().is_ok() {
        CidrError::Ipv6
    } else if crate::DomainPattern::parse(text).is_ok() {
        CidrError::Domain
    } else {
        CidrError::Text
    }
}

/// Turns networks into inclusive ranges in ascending order that neither overlap nor touch: an nftables interval set
/// refuses overlapping elements. Duplicates count once.
pub fn merged(cidrs: &[Cidr]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let mut sorted: Vec<&Cidr> = cidrs.iter().collect();
    sorted.sort();
    let mut ranges: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::with_capacity(sorted.len());
    for cidr in sorted {
        match ranges.last_mut() {
            // `saturating_add`: a range that ends at 255.255.255.255 has no next address.
            Some((_, last)) if cidr.first.to_bits() <= last.to_bits().saturating_add(1) => {
                *last = (*last).max(cidr.last());
            }
            Some(_) | None => ranges.push((cidr.first, cidr.last())),
        }
    }
    ranges
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}
