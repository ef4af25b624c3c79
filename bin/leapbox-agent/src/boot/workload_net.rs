//! Sets up the workload's network: loopback, and `eth0` with the same addresses in every guest.
//!
//! The addresses are the same everywhere so that a base snapshot or a checkpoint fits any slot; the host translates
//! them.

use super::BootError;
use super::interface::{Interface, by_mac};
use leapbox_guest_protocol::net;

/// Sets up both cards and the default route through the slot's gateway.
pub(super) fn set_up() -> Result<(), BootError> {
    Interface::new("lo")?.set_up()?;
    let mut eth0 = Interface::new(&by_mac(net::WORKLOAD_GUEST_MAC)?)?;
    eth0.rename("eth0")?;
    eth0.disable_ipv6()?;
    eth0.set_address(net::WORKLOAD_GUEST, net::WORKLOAD_PREFIX)?;
    eth0.set_up()?;
    eth0.set_default_route(net::WORKLOAD_GATEWAY)?;
    // The gateway's MAC address is the same in every slot, so that this entry is still right after a restore elsewhere.
    eth0.set_neighbour(net::WORKLOAD_GATEWAY, net::WORKLOAD_HOST_MAC)
}
