//! The block of addresses from which the links between slots and host get theirs.

use std::net::{AddrParseError, Ipv4Addr};
use std::num::ParseIntError;
use std::str::FromStr;

/// An IPv4 network in CIDR notation, without host bits, from /8 to /30.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Block {
    first: Ipv4Addr,
    prefix: u8,
}

/// The error of a setting that does not name such a network.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not an IPv4 block between /8 and /30 without host bits, such as 10.253.0.0/16")]
pub struct InvalidBlock {
    text: String,
}

impl Ipv4Block {
    /// The default, 10.253.0.0/16: enough for 32768 slots.
    pub const DEFAULT: Self = Self { first: Ipv4Addr::new(10, 253, 0, 0), prefix: 16 };

    pub(crate) fn first(self) -> Ipv4Addr {
        self.first
    }

    pub(crate) fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        // In 64 bits, because the end of a block at the top of the address space is 2^32.
        let first = u64::from(self.first.to_bits());
        (first..first + self.size()).contains(&u64::from(address.to_bits()))
    }
}

impl std::fmt::Display for Ipv4Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Ipv4Block {
    type Err = InvalidBlock;

    fn from_str(text: &str) -> Result<Self, InvalidBlock> {
        let wrong = || InvalidBlock { text: text.to_owned() };
        let (first, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let first: Ipv4Addr = first.parse().map_err(|_: AddrParseError| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_: ParseIntError| wrong())?;
        let block = Self { first, prefix };
        if !(8..=30).contains(&prefix) || u64::from(first.to_bits()) % block.size() != 0 {
            return Err(wrong());
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_an_aligned_cidr() {
        let block: Ipv4Block = "10.253.0.0/16".parse().expect("aligned");
        assert_eq!(block.size(), 65536);
        assert!(block.contains(Ipv4Addr::new(10, 253, 255, 255)));
        assert!(!block.contains(Ipv4Addr::new(10, 254, 0, 0)));
        for wrong in ["10.253.0.1/16", "10.253.0.0", "10.253.0.0/33", "10.253.0.0/31", "x/16"] {
            assert!(wrong.parse::<Ipv4Block>().is_err(), "{wrong}");
        }
    }
}
