//! Interfaces, addresses, neighbours and routes, over netlink.

use crate::error::NetworkError;
use crate::plan::{CHANNEL_TAP, SlotPlan, UPLINK, WORKLOAD_TAP};
use leapbox_guest_protocol::net;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};
use std::net::Ipv4Addr;
use std::os::fd::RawFd;

/// Prefix length of the link between a slot and the root namespace (RFC 3021).
const LINK_PREFIX: u8 = 31;

/// A routing socket in the calling thread's namespace, served by the current runtime.
pub(crate) fn open() -> Result<Handle, NetworkError> {
    let (connection, handle, _) = new_connection().map_err(|source| NetworkError::RoutingSocket { source })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Kernel index of an interface in the calling thread's namespace.
pub(crate) fn index_of(interface: &str) -> Result<u32, NetworkError> {
    if_nametoindex(interface)
        .map_err(|errno| NetworkError::InterfaceMissing { interface: interface.to_owned(), source: errno.into() })
}

/// Whether the interface is surely gone from the calling thread's namespace.
pub(crate) fn is_gone(interface: &str) -> bool {
    matches!(if_nametoindex(interface), Err(nix::errno::Errno::ENODEV))
}

/// Names of all interfaces of the calling thread's namespace.
pub(crate) fn names() -> Result<Vec<String>, NetworkError> {
    let interfaces =
        nix::net::if_::if_nameindex().map_err(|errno| NetworkError::Interfaces { source: errno.into() })?;
    Ok(interfaces.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect())
}

/// Names and IPv4 addresses of all interfaces of the calling thread's namespace.
pub(crate) fn addresses() -> Result<Vec<(String, Ipv4Addr)>, NetworkError> {
    let all = getifaddrs().map_err(|errno| NetworkError::Interfaces { source: errno.into() })?;
    Ok(all.filter_map(|one| Some((one.interface_name, one.address?.as_sockaddr_in()?.ip()))).collect())
}

/// Wires a fresh slot, on a thread inside it: the veth with its far end in `root`, taps' addresses, the way out.
pub(crate) async fn wire_slot(plan: &SlotPlan, root: RawFd) -> Result<(), NetworkError> {
    let handle = open()?;
    add_veth(&handle, plan, root).await?;
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

/// Brings up the root namespace's end of a slot's veth.
pub(crate) async fn wire_root(handle: &Handle, plan: &SlotPlan) -> Result<(), NetworkError> {
    add_address(handle, &plan.veth, plan.root_address, LINK_PREFIX).await?;
    set_up(handle, &plan.veth, None).await
}

/// Brings a slot's veth up again, whatever a former server did to it.
pub(crate) async fn mend(handle: &Handle, veth: &str) -> Result<(), NetworkError> {
    set_up(handle, veth, None).await
}

/// Cuts a slot off at the root namespace's end. It may be gone already.
pub(crate) async fn cut(handle: &Handle, veth: &str) -> Result<(), NetworkError> {
    let message = LinkUnspec::new_with_name(veth).down().build();
    match handle.link().set(message).execute().await {
        Err(source) if !is_gone(veth) => Err(routing("bring down the link", veth, source)),
        _ => Ok(()),
    }
}

async fn add_veth(handle: &Handle, plan: &SlotPlan, root: RawFd) -> Result<(), NetworkError> {
    let far_end = LinkUnspec::new_with_name(&plan.veth).setns_by_fd(root).build();
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

/// Permanent, so that a socket to the guest never waits for the guest's answer to ARP.
async fn add_neighbour(h: &Handle, interface: &str, address: Ipv4Addr, mac: [u8; 6]) -> Result<(), NetworkError> {
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
