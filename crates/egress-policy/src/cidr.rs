//! IPv4 networks.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::ParseIntError;

/// An IPv4 network in CIDR notation, without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    first: Ipv4Addr,
    /// 0 to 32.
    prefix: u8,
}

/// Why a text is not a network, or not one the operator may open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("must be an IPv4 network such as 203.0.113.0/24, or an address")]
    Text,
    #[error("IPv6 is not offered: give an IPv4 network")]
    Ipv6,
    #[error("this is a domain: put it into allow_domains")]
    Domain,
    #[error("what follows the slash must be a length from 0 to 32")]
    Prefix,
    #[error("contains {what}, which stays closed to sandboxes")]
    NeverOpen { what: &'static str },
}

impl Cidr {
    /// Parses `a.b.c.d/n`, or an address for itself alone. Host bits are masked away.
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

    /// The network of that length around the address; lengths above 32 count as 32.
    pub(crate) const fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = if prefix > 32 { 32 } else { prefix };
        Self { first: Ipv4Addr::from_bits(address.to_bits() & !Self::host_bits(prefix)), prefix }
    }

    const fn host_bits(prefix: u8) -> u32 {
        if prefix == 0 { u32::MAX } else { (1 << (32 - prefix)) - 1 }
    }

    /// Its lowest address.
    pub fn first(&self) -> Ipv4Addr {
        self.first
    }

    /// Its highest address.
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() | Self::host_bits(self.prefix))
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.first <= address && address <= self.last()
    }

    /// Whether the whole other network lies in it.
    pub fn contains_all(&self, other: &Cidr) -> bool {
        self.contains(other.first) && self.contains(other.last())
    }

    /// What both have in common: of two networks one lies in the other, or they are apart.
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

/// Ranges, both ends included, in order and without overlapping or touching.
pub(crate) fn merged(cidrs: &[Cidr]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let mut sorted: Vec<&Cidr> = cidrs.iter().collect();
    sorted.sort();
    let mut ranges: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::with_capacity(sorted.len());
    for cidr in sorted {
        match ranges.last_mut() {
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
