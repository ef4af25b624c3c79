//! Sets up interfaces, addresses, neighbours and routes over rtnetlink. The `ip` program would cost 20 to 40 ms a slot.

use crate::error::NetworkError;
use crate::plan::{CHANNEL_TAP, SlotPlan, UPLINK, WORKLOAD_TAP};
use leapbox_guest_protocol::net;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};
use std::net::Ipv4Addr;
use std::os::fd::RawFd;

// A point-to-point link needs no network and broadcast address (RFC 3021), so each slot costs two addresses.
const LINK_PREFIX: u8 = 31;

/// Opens an rtnetlink socket in the calling thread's namespace. A task of the current runtime serves it.
pub(crate) fn open() -> Result<Handle, NetworkError> {
    let (connection, handle, _) = new_connection().map_err(|source| NetworkError::RoutingSocket { source })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Returns the kernel's index of an interface in the calling thread's namespace.
pub(crate) fn index_of(interface: &str) -> Result<u32, NetworkError> {
    if_nametoindex(interface)
        .map_err(|errno| NetworkError::InterfaceMissing { interface: interface.to_owned(), source: errno.into() })
}

/// Whether the interface no longer exists in the calling thread's namespace.
pub(crate) fn is_gone(interface: &str) -> bool {
    // Any other error leaves it open, and an index must not be freed on a guess.
    matches!(if_nametoindex(interface), Err(nix::errno::Errno::ENODEV))
}

/// Returns the names of all interfaces in the calling thread's namespace.
pub(crate) fn names() -> Result<Vec<String>, NetworkError> {
    let interfaces =
        nix::net::if_::if_nameindex().map_err(|errno| NetworkError::Interfaces { source: errno.into() })?;
    Ok(interfaces.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect())
}

/// Returns the names and IPv4 addresses of all interfaces in the calling thread's namespace.
pub(crate) fn addresses() -> Result<Vec<(String, Ipv4Addr)>, NetworkError> {
    let all = getifaddrs().map_err(|errno| NetworkError::Interfaces { source: errno.into() })?;
    Ok(all.filter_map(|one| Some((one.interface_name, one.address?.as_sockaddr_in()?.ip()))).collect())
}

/// Sets up a new slot's interfaces: the veth with its other end in the root namespace, both taps' addresses, and the
/// default route. The calling thread must be inside the slot.
pub(crate) async fn wire_slot(plan: &SlotPlan, root_netns: RawFd) -> Result<(), NetworkError> {
    let handle = open()?;
    add_veth(&handle, plan, root_netns).await?;
    set_up(&handle, "lo", None).await?;
    set_up(&handle, UPLINK, None).await?;
    add_address(&handle, UPLINK, plan.slot_address, LINK_PREFIX).await?;
    set_up(&handle, WORKLOAD_TAP, Some(net::WORKLOAD_HOST_MAC)).await?;
    add_address(&handle, WORKLOAD_TAP, net::WORKLOAD_GATEWAY, net::WORKLOAD_PREFIX).await?;
    add_neighbour(&handle, WORKLOAD_TAP, net::WORKLOAD_GUEST, net::WORKLOAD_GUEST_MAC).await?;
    set_up(&handle, CHANNEL_TAP, Some(net::CHANNEL_HOST_MAC)).await?;
    add_address(&handle, CHANNEL_TAP, net::CHANNEL_HOST, net::CHANNEL_PREFIX).await?;
    add_neighbour(&handle, CHANNEL_TAP, net::CHANNEL_GUEST, net::CHANNEL_GUEST_MAC).await?;
    add_default_route(&handle, plan.root_address).await
}

/// Sets up the root namespace's end of a slot's veth.
pub(crate) async fn wire_root(handle: &Handle, plan: &SlotPlan) -> Result<(), NetworkError> {
    add_address(handle, &plan.veth, plan.root_address, LINK_PREFIX).await?;
    set_up(handle, &plan.veth, None).await
}

/// Brings the root namespace's end of an adopted slot's veth up again: the previous server may have cut it off.
pub(crate) async fn set_up_veth(handle: &Handle, veth: &str) -> Result<(), NetworkError> {
    set_up(handle, veth, None).await
}

/// Cuts a slot off by bringing down the root namespace's end of its veth. It is no error if the veth no longer exists.
pub(crate) async fn cut(handle: &Handle, veth: &str) -> Result<(), NetworkError> {
    let message = LinkUnspec::new_with_name(veth).down().build();
    match handle.link().set(message).execute().await {
        Err(source) if !is_gone(veth) => Err(routing("bring down the link", veth, source)),
        _ => Ok(()),
    }
}

async fn add_veth(handle: &Handle, plan: &SlotPlan, root_netns: RawFd) -> Result<(), NetworkError> {
    let far_end = LinkUnspec::new_with_name(&plan.veth).setns_by_fd(root_netns).build();
    let message = LinkVeth::new(UPLINK, &plan.veth).set_info_data(InfoData::Veth(InfoVeth::Peer(far_end))).build();
    handle.link().add(message).execute().await.map_err(|source| routing("make the veth", &plan.veth, source))
}

async fn set_up(handle: &Handle, interface: &str, mac: Option<[u8; 6]>) -> Result<(), NetworkError> {
    let mut message = LinkUnspec::new_with_name(interface).up();
    if let Some(mac) = mac {
        message = message.address(mac.to_vec());
    }
    let request = handle.link().set(message.build());
    request.execute().await.map_err(|source| routing("bring up the link", interface, source))
}

async fn add_address(handle: &Handle, interface: &str, address: Ipv4Addr, prefix: u8) -> Result<(), NetworkError> {
    let request = handle.address().add(index_of(interface)?, address.into(), prefix);
    request.execute().await.map_err(|source| routing("add an address", interface, source))
}

async fn add_neighbour(h: &Handle, interface: &str, address: Ipv4Addr, mac: [u8; 6]) -> Result<(), NetworkError> {
    // Permanent: a socket to the guest never waits for its answer to ARP, and no answer of the guest's can change the
    // entry.
    let request = h.neighbours().add(index_of(interface)?, address.into()).link_layer_address(&mac);
    request.execute().await.map_err(|source| routing("add a neighbour", interface, source))
}

async fn add_default_route(handle: &Handle, gateway: Ipv4Addr) -> Result<(), NetworkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
    handle.route().add(route).execute().await.map_err(|source| routing("add the default route", UPLINK, source))
}

fn routing(step: &'static str, interface: &str, source: rtnetlink::Error) -> NetworkError {
    NetworkError::Routing { step, interface: interface.to_owned(), source }
}
