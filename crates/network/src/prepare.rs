//! Prepares a slot's namespace for a guest, or checks one that a previous server has made.

use crate::config::GuestLink;
use crate::error::NetworkError;
use crate::links;
use crate::namespace;
use crate::nft;
use crate::plan::{CHANNEL_TAP, SlotPlan, UPLINK, WORKLOAD_TAP};
use crate::rules;
use crate::stand_in;
use crate::sysctl;
use crate::tap;
use leapbox_guest_protocol::net::{CHANNEL_HOST, WORKLOAD_GATEWAY};
use rtnetlink::Handle;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// The network namespace in which this process runs, and a routing socket in it.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) netns: Arc<OwnedFd>,
    pub(crate) routing: Handle,
}

/// Makes a slot's namespace with everything in it. It takes some ten milliseconds, most of them for starting `nft`.
pub(crate) async fn prepare(plan: &SlotPlan, guest: GuestLink, root: &Root) -> Result<OwnedFd, NetworkError> {
    let (slot, root_netns) = (plan.clone(), root.netns.clone());
    let netns = namespace::fresh(move || {
        // The order matters: settings before the interfaces that inherit them, rules after the taps, which their
        // ingress chains name, and before any interface is up.
        sysctl::apply_slot()?;
        match guest {
            GuestLink::Tap => tap::create(WORKLOAD_TAP, slot.uid)?,
            GuestLink::Veth => short_runtime()?.block_on(stand_in::create())?,
        }
        tap::create(CHANNEL_TAP, slot.uid)?;
        nft::apply(&rules::slot_tables(&slot))?;
        short_runtime()?.block_on(links::wire_slot(&slot, root_netns.as_raw_fd()))
    })
    .await?;
    let veth = plan.veth.clone();
    blocking(move || sysctl::apply_veth(&veth)).await?;
    // Brought up last: until then the root namespace takes no packet of the slot.
    links::wire_root(&root.routing, plan).await?;
    Ok(netns)
}

/// Checks that an adopted namespace is this slot's, and brings its rules to this server's version without a gap.
pub(crate) async fn adopt(plan: &SlotPlan, netns: Arc<OwnedFd>) -> Result<(), NetworkError> {
    // A process may be found in any namespace, and the database may be older than the host's state: the slot's
    // addresses, which the index decides, must be on both ends.
    let root_side = links::addresses()?;
    if !has(&root_side, &plan.veth, plan.root_address) {
        let what = format!("{} does not have {} in the server's namespace", plan.veth, plan.root_address);
        return Err(NetworkError::Miswired { index: plan.index, what });
    }
    let slot = plan.clone();
    namespace::inside(netns, move || {
        check_inside(&slot)?;
        nft::apply(&rules::slot_tables(&slot))
    })
    .await
}

fn check_inside(plan: &SlotPlan) -> Result<(), NetworkError> {
    let found = links::addresses()?;
    let wanted = [(UPLINK, plan.slot_address), (WORKLOAD_TAP, WORKLOAD_GATEWAY), (CHANNEL_TAP, CHANNEL_HOST)];
    match wanted.into_iter().find(|(interface, address)| !has(&found, interface, *address)) {
        None => Ok(()),
        Some((interface, address)) => Err(NetworkError::Miswired {
            index: plan.index,
            what: format!("{interface} does not have {address} inside"),
        }),
    }
}

fn has(found: &[(String, Ipv4Addr)], interface: &str, address: Ipv4Addr) -> bool {
    found.iter().any(|(name, ip)| name == interface && *ip == address)
}

/// Makes a runtime for rtnetlink, which is asynchronous: the thread that prepares a slot belongs to no runtime.
fn short_runtime() -> Result<tokio::runtime::Runtime, NetworkError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|source| NetworkError::Namespace { step: "start a runtime", source })
}

/// Runs work that may wait for the kernel's locks or for `nft`, in this process's own namespace.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, NetworkError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, NetworkError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(NetworkError::Task)?
}
