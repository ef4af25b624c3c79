//! Addresses inside every guest.
//!
//! They are the same in all sandboxes, so that a base snapshot or a checkpoint can be restored in any slot: a network
//! namespace keeps them apart. Agent, `network` and `gateway` take them from here.

use std::net::Ipv4Addr;

/// TCP port of the agent, in the guest channel's network namespace. The gateway refuses it.
pub const AGENT_PORT: u16 = 52052;

/// The host's end of the guest channel.
pub const CHANNEL_HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 100, 1);
/// The guest's end of the guest channel.
pub const CHANNEL_GUEST: Ipv4Addr = Ipv4Addr::new(169, 254, 100, 2);
/// Prefix length of the guest channel's network: two addresses.
pub const CHANNEL_PREFIX: u8 = 30;

/// The address of the guest's `eth0`.
pub const WORKLOAD_GUEST: Ipv4Addr = Ipv4Addr::new(10, 254, 254, 2);
/// The guest's default gateway, and the name server it asks.
pub const WORKLOAD_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 254, 254, 1);
/// Prefix length of the workload's network: two addresses.
pub const WORKLOAD_PREFIX: u8 = 30;

/// MAC address of the guest's `eth0`.
// Locally administered, like all four (bit 1 of the first byte), so that no vendor's card has it.
pub const WORKLOAD_GUEST_MAC: [u8; 6] = [0x02, 0x4c, 0x42, 0x00, 0x00, 0x02];
/// MAC address of the host's tap behind `eth0`.
pub const WORKLOAD_HOST_MAC: [u8; 6] = [0x02, 0x4c, 0x42, 0x00, 0x00, 0x01];
/// MAC address of the guest's end of the channel.
pub const CHANNEL_GUEST_MAC: [u8; 6] = [0x02, 0x4c, 0x42, 0x00, 0x01, 0x02];
/// MAC address of the host's tap of the channel.
pub const CHANNEL_HOST_MAC: [u8; 6] = [0x02, 0x4c, 0x42, 0x00, 0x01, 0x01];

/// A MAC address as command lines and sysfs write it: `02:4c:42:00:00:02`.
pub fn mac_string(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_written_as_sysfs_writes_it() {
        assert_eq!(mac_string(CHANNEL_GUEST_MAC), "02:4c:42:00:01:02");
    }
}
