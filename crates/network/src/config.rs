//! What an installation says about its network, and the checks on it.

use crate::error::NetworkError;
use leapbox_egress_policy::Cidr;
use std::net::{AddrParseError, Ipv4Addr, SocketAddr};
use std::num::ParseIntError;
use std::str::FromStr;

/// Settings of [`crate::Network::start`].
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Four lower-case hexadecimal digits that tell this installation from others on the host.
    pub instance: String,
    /// Addresses of the links between slots and the root namespace, two a slot. No other installation on the host
    /// and no network of the host's may overlap it.
    pub link_block: Ipv4Block,
    /// Uid of slot 0's VMM; slot n has `base_uid + n`.
    pub base_uid: u32,
    /// Most slots at a time, prepared ones included.
    pub max_slots: u32,
    /// Slots kept ready ahead of use.
    pub prepared: usize,
    /// Name servers to forward to; `None` takes the host's from /etc/resolv.conf, and follows its changes.
    pub dns_upstreams: Option<Vec<SocketAddr>>,
    /// What the guests are behind.
    pub guest_link: GuestLink,
    /// Private networks that a sandbox's policy may open with its `allow_cidrs`; a single address may be the host's own.
    pub egress_private_cidrs: Vec<Cidr>,
}

/// What is behind a slot's `tap0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestLink {
    /// A VMM's guest.
    Tap,
    /// Another namespace: `tap0` is a veth, and its other end is [`crate::STAND_IN`], to be moved where it is wanted. Only
    /// `leapbox-bench egress` asks for it: beside an emulated guest its measurements would not show the proxy.
    Veth,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            instance: "0000".into(),
            link_block: Ipv4Block { first: Ipv4Addr::new(10, 253, 0, 0), prefix: 16 },
            base_uid: 200_000,
            max_slots: 1024,
            prepared: 8,
            dns_upstreams: None,
            guest_link: GuestLink::Tap,
            egress_private_cidrs: Vec::new(),
        }
    }
}

impl NetworkConfig {
    /// Refuses what would overflow or could not be told apart later.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if self.instance.len() != 4 || !self.instance.bytes().all(hex) {
            return Err(NetworkError::Instance { instance: self.instance.clone() });
        }
        if self.max_slots == 0 || u64::from(self.max_slots) * 2 > self.link_block.size() {
            return Err(NetworkError::LinkBlockSize { block: self.link_block, max_slots: self.max_slots });
        }
        if self.base_uid == 0 || self.base_uid.checked_add(self.max_slots).is_none() {
            return Err(NetworkError::Uids { base_uid: self.base_uid, max_slots: self.max_slots });
        }
        Ok(())
    }
}

/// An IPv4 network in CIDR notation, without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Block {
    first: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Block {
    /// Its first address.
    pub(crate) fn first(self) -> Ipv4Addr {
        self.first
    }

    /// How many addresses it holds.
    pub(crate) fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// Whether the address lies in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
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
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError::LinkBlockText { text: text.to_owned() };
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

    #[test]
    fn a_config_that_would_overflow_is_refused() {
        let good = NetworkConfig::default();
        assert!(good.check().is_ok());
        assert!(NetworkConfig { instance: "A1B2".into(), ..good.clone() }.check().is_err());
        assert!(NetworkConfig { max_slots: 32769, ..good.clone() }.check().is_err());
        assert!(NetworkConfig { max_slots: 0, ..good.clone() }.check().is_err());
        assert!(NetworkConfig { base_uid: u32::MAX - 10, ..good.clone() }.check().is_err());
        assert!(NetworkConfig { base_uid: 0, ..good }.check().is_err());
    }
}
