//! What can go wrong, one variant per failing step.

use crate::block::Ipv4Block;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Why the network could not be set up, or a slot not be had.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The installation's id has the wrong form.
    #[error("instance {instance:?} is not four lower-case hexadecimal digits")]
    Instance { instance: String },
    /// The block has too few addresses.
    #[error("link block {block} has no room for {max_slots} slots of two addresses each (at least one is needed)")]
    LinkBlockSize { block: Ipv4Block, max_slots: u32 },
    /// The uids do not fit.
    #[error("{max_slots} uids from {base_uid} on do not fit: the first must not be root's, the last below 2^32")]
    Uids { base_uid: u32, max_slots: u32 },
    /// Another process in this network namespace holds the same instance or the same block.
    #[error("another server on this host already uses {what}")]
    Claimed {
        /// `instance a1b2` or `link block 10.253.0.0/16`.
        what: String,
        #[source]
        source: io::Error,
    },
    /// The host, or another installation's running sandbox, has an address in the block.
    #[error("link block {block} is in use: {interface} has {address}; configure another block")]
    LinkBlockInUse {
        block: Ipv4Block,
        /// The interface that has the address.
        interface: String,
        address: Ipv4Addr,
    },
    /// A kernel setting could not be read or written.
    #[error("could not access the kernel setting {}", path.display())]
    Sysctl {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The `nft` program could not be run.
    #[error("could not run `{argv}`")]
    NftStart {
        argv: String,
        #[source]
        source: io::Error,
    },
    /// The `nft` program refused.
    #[error("`{argv}` failed ({status}): {stderr} {stdout}")]
    NftFailed { argv: String, status: std::process::ExitStatus, stdout: String, stderr: String },
    /// A namespace could not be made or entered.
    #[error("could not {step}")]
    Namespace {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    /// The thread that works inside namespaces died.
    #[error("the thread working inside a network namespace is gone")]
    ThreadGone,
    /// A task was cancelled or panicked.
    #[error("a task of the network did not end as it should")]
    Task(#[source] tokio::task::JoinError),
    /// A tap could not be made.
    #[error("could not {step} for tap {tap}")]
    Tap {
        tap: &'static str,
        step: &'static str,
        #[source]
        source: io::Error,
    },
    /// An interface that has just been made is not there.
    #[error("interface {interface} is missing")]
    InterfaceMissing {
        interface: String,
        #[source]
        source: io::Error,
    },
    /// The list of interfaces could not be read.
    #[error("could not list network interfaces")]
    Interfaces {
        #[source]
        source: io::Error,
    },
    /// No connection to the kernel's routing interface.
    #[error("could not open a routing socket")]
    RoutingSocket {
        #[source]
        source: io::Error,
    },
    /// The kernel refused a routing request.
    #[error("could not {step} of {interface}")]
    Routing {
        step: &'static str,
        interface: String,
        #[source]
        source: rtnetlink::Error,
    },
    /// The sockets of the slot's name server could not be opened.
    #[error("could not open the name server of slot {index}")]
    Dns {
        index: u32,
        #[source]
        source: io::Error,
    },
    /// The socket of a slot's egress proxy could not be opened.
    #[error("could not open the egress proxy of slot {index}")]
    Proxy {
        index: u32,
        #[source]
        source: io::Error,
    },
    /// The egress proxy that all slots share could not be set up.
    #[error("could not set up the egress proxy")]
    Egress {
        #[source]
        source: leapbox_egress::ProxyError,
    },
    /// A slot has one policy in its life.
    #[error("slot {index} has a policy already")]
    PolicySet { index: u32 },
    /// The configured name servers cannot be used.
    #[error("could not set up forwarding of DNS queries")]
    DnsUpstream {
        #[source]
        source: hickory_resolver::net::NetError,
    },
    /// All slots are taken.
    #[error("all {max_slots} network slots are in use ({releasing} of them about to be released)")]
    Exhausted {
        max_slots: u32,
        /// Slots whose namespace is not gone yet.
        releasing: usize,
    },
    /// The index to adopt is not below `max_slots`.
    #[error("slot {index} is outside the configured {max_slots} slots")]
    IndexOutOfRange { index: u32, max_slots: u32 },
    /// The index to adopt belongs to another slot.
    #[error("slot {index} is already in use")]
    IndexInUse { index: u32 },
    /// The namespace to adopt is not the one this slot should have.
    #[error("the namespace is not that of slot {index}: {what}")]
    Miswired { index: u32, what: String },
    /// The network is being stopped.
    #[error("the network is stopping")]
    Stopping,
}
