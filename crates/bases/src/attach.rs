//! Connects a machine with its network slot: its two network devices, and the client of its agent. Called here for
//! machines that boot for a base, and by `lifecycle` for all others.

use async_trait::async_trait;
use leapbox_guest_client::{Dial, GuestClient};
use leapbox_guest_protocol::net;
use leapbox_network::{CHANNEL_TAP, Slot, SlotConnector, WORKLOAD_TAP};
use leapbox_vmm::NetworkAttachment;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a connection to the agent may take. The guest's neighbour entry is fixed and the path is the host's memory,
/// so a guest that takes longer is hung or hostile.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The slot's namespace, taps and MAC addresses, as a VMM driver takes them.
pub fn attachment(slot: &Slot) -> NetworkAttachment {
    // The same MAC addresses in every slot: they are in the memory of a base, which has to fit into all of them.
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
