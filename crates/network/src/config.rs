//! What an installation says about its network, and the checks on it.

use crate::block::Ipv4Block;
use crate::error::NetworkError;
use leapbox_egress_policy::Cidr;
use std::net::SocketAddr;

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
            link_block: Ipv4Block::DEFAULT,
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

#[cfg(test)]
mod tests {
    use super::*;

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
