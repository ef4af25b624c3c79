//! Computes the names and addresses of a slot from its index, which decides all of them.

use crate::config::NetworkConfig;
use std::net::Ipv4Addr;

/// Name of the tap behind the workload's card (the guest's `eth0`), inside the slot.
pub const WORKLOAD_TAP: &str = "tap0";
/// Name of the tap behind the guest channel (the guest's `eth1`), inside the slot.
pub const CHANNEL_TAP: &str = "tap1";
/// Name of the slot's end of the veth to the root namespace.
pub(crate) const UPLINK: &str = "uplink";

/// The names, addresses and uid of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotPlan {
    pub(crate) index: u32,
    /// Name of the veth's end in the root namespace, at most 15 characters.
    pub(crate) veth: String,
    /// Address of the root namespace's end, the even one of a /31.
    pub(crate) root_address: Ipv4Addr,
    /// Address of the slot's end: the source address of the guest's packets in the root namespace.
    pub(crate) slot_address: Ipv4Addr,
    /// Uid of the slot's VMM, which owns both taps.
    pub(crate) uid: u32,
}

impl SlotPlan {
    /// Computes the plan of a slot that this server makes, or has adopted: an index below `max_slots`, or one for which
    /// [`Self::of_left`] has returned a plan.
    pub(crate) fn new(config: &NetworkConfig, index: u32) -> Self {
        // `NetworkConfig::check` has made sure that none of these sums overflows.
        let base = config.link_block.first().to_bits();
        Self {
            index,
            veth: veth_name(&config.instance, index),
            root_address: Ipv4Addr::from_bits(base + 2 * index),
            slot_address: Ipv4Addr::from_bits(base + 2 * index + 1),
            uid: config.base_uid + index,
        }
    }

    /// Computes the plan of a slot that a previous server has made, perhaps under other limits. `None` if these
    /// settings have no addresses or no uid for its index.
    pub(crate) fn of_left(config: &NetworkConfig, index: u32) -> Option<Self> {
        let has_addresses = 2 * u64::from(index) + 1 < config.link_block.size();
        // 2^32 - 1 is no uid: the kernel takes it for "none".
        let has_uid = config.base_uid.checked_add(index).is_some_and(|uid| uid < u32::MAX);
        (has_addresses && has_uid).then(|| Self::new(config, index))
    }
}

/// Prefix of the names of all installations' veths in the root namespace.
pub(crate) const VETH_PREFIX: &str = "lb";

/// Returns the prefix of the names of one installation's veths in the root namespace.
pub(crate) fn veth_prefix(instance: &str) -> String {
    format!("{VETH_PREFIX}{instance}s")
}

pub(crate) fn veth_name(instance: &str, index: u32) -> String {
    format!("{}{index:x}", veth_prefix(instance))
}

/// Returns the index in a veth's name, if the veth is one of this installation's.
pub(crate) fn veth_index(instance: &str, name: &str) -> Option<u32> {
    u32::from_str_radix(name.strip_prefix(&veth_prefix(instance))?, 16).ok()
}

/// Returns the name of an installation's host-wide nftables table.
pub(crate) fn table_name(instance: &str) -> String {
    format!("leapbox_{instance}")
}

/// Returns the name of the table that guards the host-wide one.
pub(crate) fn guard_name(instance: &str) -> String {
    format!("{}_guard", table_name(instance))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig { instance: "a1b2".into(), max_slots: 32768, ..NetworkConfig::default() }
    }

    #[test]
    fn the_index_decides_name_addresses_and_uid() {
        let plan = SlotPlan::new(&config(), 0x123);
        assert_eq!(plan.veth, "lba1b2s123");
        assert_eq!(plan.root_address, Ipv4Addr::new(10, 253, 2, 0x46));
        assert_eq!(plan.slot_address, Ipv4Addr::new(10, 253, 2, 0x47));
        assert_eq!(plan.uid, config().base_uid + 0x123);
    }

    #[test]
    fn a_left_slot_has_a_plan_as_long_as_its_addresses_and_its_uid_exist() {
        let small = NetworkConfig { link_block: "10.253.0.0/24".parse().expect("cidr"), max_slots: 4, ..config() };
        assert_eq!(SlotPlan::of_left(&small, 127), Some(SlotPlan::new(&small, 127)));
        assert_eq!(SlotPlan::of_left(&small, 128), None, "its addresses are beyond the block");
        assert_eq!(SlotPlan::of_left(&config(), u32::MAX), None);
        let last = NetworkConfig { base_uid: u32::MAX - 5, ..config() };
        assert!(SlotPlan::of_left(&last, 4).is_some());
        assert_eq!(SlotPlan::of_left(&last, 5), None, "2^32 - 1 is no uid");
    }

    #[test]
    fn every_interface_name_fits_the_kernels_fifteen_characters() {
        let name = veth_name("ffff", u32::MAX);
        assert!(name.len() <= 15, "{name}");
    }

    #[test]
    fn an_index_is_read_back_only_from_our_own_names() {
        assert_eq!(veth_index("a1b2", "lba1b2s123"), Some(0x123));
        assert_eq!(veth_index("a1b2", "lba1b3s123"), None);
        assert_eq!(veth_index("a1b2", "lba1b2s"), None);
        assert_eq!(veth_index("a1b2", "eth0"), None);
    }
}
