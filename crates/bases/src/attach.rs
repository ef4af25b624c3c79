//! What a machine gets from its network slot: its devices, and the way to its agent.

use async_trait::async_trait;
use leapbox_guest_client::{Dial, GuestClient};
use leapbox_guest_protocol::net;
use leapbox_network::{CHANNEL_TAP, Slot, SlotConnector, WORKLOAD_TAP};
use leapbox_vmm::NetworkAttachment;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest a connection to the agent may take. The guest's neighbour entry is fixed and the path is memory, so a
/// guest that takes longer is hung or hostile.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The slot as a VMM driver wants it.
pub fn attachment(slot: &Slot) -> NetworkAttachment {
    NetworkAttachment {
        netns: slot.netns(),
        workload_tap: WORKLOAD_TAP.to_owned(),
        workload_mac: net::mac_string(net::WORKLOAD_GUEST_MAC),
        channel_tap: CHANNEL_TAP.to_owned(),
        channel_mac: net::mac_string(net::CHANNEL_GUEST_MAC),
    }
}

/// The client of the agent behind the slot's guest channel.
pub fn guest_of(slot: &Slot) -> GuestClient {
    GuestClient::new(Arc::new(Channel { connector: slot.connector() }))
}

struct Channel {
    connector: SlotConnector,
}

#[async_trait]
impl Dial for Channel {
    async fn dial(&self) -> std::io::Result<TcpStream> {
        self.connector.connect(SocketAddrV4::new(net::CHANNEL_GUEST, net::AGENT_PORT), DIAL_TIMEOUT).await
    }
}
