//! The two rule sets as text: the host-wide table and a slot's own. Pure; `nft` applies them.

use crate::config::NetworkConfig;
use crate::plan::{
    CHANNEL_GUEST, CHANNEL_GUEST_MAC, CHANNEL_HOST, SlotPlan, WORKLOAD_GATEWAY, WORKLOAD_GUEST, WORKLOAD_GUEST_MAC,
    table_name, veth_prefix,
};

/// Networks no sandbox may reach (RFC 6890 and its registry, multicast, class E).
pub(crate) const BLOCKED: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// The host-wide table; takes the place of an older one of the same installation between two packets.
pub(crate) fn host_table(config: &NetworkConfig) -> String {
    let block = config.link_block.to_string();
    let mut blocked: Vec<&str> = BLOCKED.to_vec();
    blocked.push(&block);
    include_str!("rules/host.nft")
        .replace("%TABLE%", &table_name(&config.instance))
        .replace("%SLOTS%", &format!("{}*", veth_prefix(&config.instance)))
        .replace("%BLOCKED%", &blocked.join(", "))
        .replace("%LINKS%", &block)
}

/// Removes the host-wide table, whether it is there or not.
pub(crate) fn no_host_table(instance: &str) -> String {
    let table = table_name(instance);
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// A slot's own rules; take the place of older ones between two packets.
pub(crate) fn slot_tables(plan: &SlotPlan) -> String {
    include_str!("rules/slot.nft")
        .replace("%WORKLOAD_MAC%", WORKLOAD_GUEST_MAC)
        .replace("%WORKLOAD_GUEST%", &WORKLOAD_GUEST.to_string())
        .replace("%GATEWAY%", &WORKLOAD_GATEWAY.to_string())
        .replace("%CHANNEL_MAC%", CHANNEL_GUEST_MAC)
        .replace("%CHANNEL_HOST%", &CHANNEL_HOST.to_string())
        .replace("%CHANNEL_GUEST%", &CHANNEL_GUEST.to_string())
        .replace("%SLOT_ADDRESS%", &plan.slot_address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left_in_either_rule_set() {
        let config = NetworkConfig::default();
        assert!(!host_table(&config).contains('%'));
        assert!(!slot_tables(&SlotPlan::new(&config, 3)).contains('%'));
    }

    #[test]
    fn a_link_block_of_public_addresses_is_blocked_too() {
        let config = NetworkConfig { link_block: "93.0.0.0/16".parse().expect("cidr"), ..NetworkConfig::default() };
        assert!(host_table(&config).contains(", 93.0.0.0/16 }"));
    }
}
