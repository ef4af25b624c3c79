//! The settings of an installation's network, and the checks on them.

use crate::block::Ipv4Block;
use crate::error::NetworkError;
use leapbox_egress_policy::Cidr;
use std::net::SocketAddr;

/// The settings that [`crate::Network::start`] takes, checked there.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Four lower-case hexadecimal digits that tell this installation from others on the host.
    pub instance: String,
    /// The addresses of the links between slots and the root namespace, two for each slot. The block may overlap
    /// neither another installation's on the host nor a network that the host is in.
    pub link_block: Ipv4Block,
    /// The uid of slot 0's VMM; slot n has `base_uid + n`. No other program may use these uids. See
    /// [`default_base_uid`].
    pub base_uid: u32,
    /// Limit on the number of slots at a time, prepared ones included.
    pub max_slots: u32,
    /// Number of slots that the pool keeps ready. Preparing one takes some ten milliseconds.
    pub prepared: usize,
    /// Upstream name servers, to which the slots' name servers forward queries. `None` takes the host's from
    /// /etc/resolv.conf and follows its changes; an empty list answers every query with SERVFAIL.
    pub dns_upstreams: Option<Vec<SocketAddr>>,
    pub guest_link: GuestLink,
    /// Networks of closed addresses that a sandbox's policy may open with its `allow_cidrs`. Only an entry of a single
    /// address (/32) opens an address of the host itself.
    pub egress_private_cidrs: Vec<Cidr>,
}

/// The kind of device that a slot's `tap0` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestLink {
    /// A tap, which the VMM opens by name.
    Tap,
    /// A veth whose other end is [`crate::STAND_IN`], to be moved into another namespace that plays the guest. Only
    /// `leapbox-bench --parts egress` uses it: an emulated guest is too slow to measure the proxy.
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

/// Uids that belong to one instance by default: one for each slot of the default link block.
const UIDS_PER_INSTANCE: u32 = 32_768;
/// The first default uid is this times [`UIDS_PER_INSTANCE`], which is 2,097,152.
const FIRST_RANGE: u32 = 64;
// Ranges below 2^31: there are programs that take a higher uid for a negative number (systemd's UIDS-GIDS.md).
const RANGES: u32 = (1 << 31) / UIDS_PER_INSTANCE - FIRST_RANGE;

/// Returns the base uid of an installation that configures none. It is derived from the instance (four hexadecimal
/// digits), so that two installations of one host share no uids. Instances `ffc0` to `ffff` have the ranges of `0000`
/// to `003f`; [`crate::Network::start`] refuses to share a range.
pub fn default_base_uid(instance: &str) -> u32 {
    // `Network::start` refuses what is not four hexadecimal digits.
    let instance = u16::from_str_radix(instance, 16).unwrap_or_default();
    (FIRST_RANGE + u32::from(instance) % RANGES) * UIDS_PER_INSTANCE
}

impl NetworkConfig {
    /// Checks that addresses, names and uids of all slots are valid, so that no later arithmetic can overflow.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        // An interface's name has at most 15 characters: `lb`, these four, `s`, and the index in hexadecimal.
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
    fn instances_have_default_uids_of_their_own_below_2_to_the_31() {
        assert_eq!(default_base_uid("0000"), 2_097_152);
        assert_eq!(default_base_uid("0001"), 2_097_152 + 32_768);
        assert_eq!(u64::from(default_base_uid("ffbf")) + u64::from(UIDS_PER_INSTANCE), 1 << 31);
        assert_eq!(default_base_uid("ffc0"), default_base_uid("0000"));
        let largest =
            NetworkConfig { base_uid: default_base_uid("ffbf"), max_slots: 32768, ..NetworkConfig::default() };
        assert!(largest.check().is_ok());
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
