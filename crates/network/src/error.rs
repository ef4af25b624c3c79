//! The errors of the network, with one variant for each step that can fail.

use crate::block::Ipv4Block;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The reason the network could not be set up, or a slot could not be made, adopted or given a policy.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("instance {instance:?} is not four lower-case hexadecimal digits")]
    Instance { instance: String },
    #[error("link block {block} has no room for {max_slots} slots of two addresses each (at least one is needed)")]
    LinkBlockSize { block: Ipv4Block, max_slots: u32 },
    #[error("{max_slots} uids from {base_uid} on do not fit: the first must not be 0 (root), the last below 2^32")]
    Uids { base_uid: u32, max_slots: u32 },
    /// Another process in this network namespace holds the same instance id, the same block, or some of the same uids.
    #[error("another server on this host already uses {what}: stop it, or configure another {setting}")]
    Claimed {
        /// Such as `instance a1b2`, `link block 10.253.0.0/16` or `uids 2097152 to 2098175`.
        what: String,
        /// The setting that decides it.
        setting: &'static str,
        #[source]
        source: io::Error,
    },
    /// The host, or another installation's running sandbox, has an address in the block.
    #[error("link block {block} is in use: interface {interface} has {address}; configure another block")]
    LinkBlockInUse { block: Ipv4Block, interface: String, address: Ipv4Addr },
    #[error("could not access the kernel setting {}", path.display())]
    Sysctl {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not run `{argv}`")]
    NftStart {
        argv: String,
        #[source]
        source: io::Error,
    },
    #[error("`{argv}` failed ({status}): {stderr} {stdout}")]
    NftFailed { argv: String, status: std::process::ExitStatus, stdout: String, stderr: String },
    #[error("could not {step}")]
    Namespace {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    /// A thread that works inside network namespaces has panicked or ended.
    #[error("the thread that works inside network namespaces has ended unexpectedly")]
    ThreadGone,
    #[error("a task of the network was cancelled or panicked")]
    Task(#[source] tokio::task::JoinError),
    #[error("could not {step} for tap {tap}")]
    Tap {
        tap: &'static str,
        step: &'static str,
        #[source]
        source: io::Error,
    },
    /// An interface that was made right before does not exist.
    #[error("network interface {interface} does not exist")]
    InterfaceMissing {
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error("could not list network interfaces")]
    Interfaces {
        #[source]
        source: io::Error,
    },
    #[error("could not open a socket to the kernel's routing interface (rtnetlink)")]
    RoutingSocket {
        #[source]
        source: io::Error,
    },
    /// The kernel has refused an rtnetlink request.
    #[error("could not {step} of {interface}")]
    Routing {
        step: &'static str,
        interface: String,
        #[source]
        source: rtnetlink::Error,
    },
    #[error("could not open the name server of slot {index}")]
    Dns {
        index: u32,
        #[source]
        source: io::Error,
    },
    #[error("could not open the egress proxy of slot {index}")]
    Proxy {
        index: u32,
        #[source]
        source: io::Error,
    },
    #[error("could not set up the egress proxy")]
    Egress {
        #[source]
        source: leapbox_egress::ProxyError,
    },
    /// A slot gets one policy in its life.
    #[error("network slot {index} already has a policy")]
    PolicySet { index: u32 },
    /// The policy has come after the slot was closed.
    #[error("network slot {index} no longer exists, so no policy can be installed in it")]
    SlotGone { index: u32 },
    #[error("could not set up the forwarding of DNS queries")]
    DnsUpstream {
        #[source]
        source: hickory_resolver::net::NetError,
    },
    #[error("all {max_slots} network slots are in use ({releasing} of them are being released)")]
    Exhausted {
        max_slots: u32,
        /// Closed slots whose namespace still exists.
        releasing: usize,
    },
    /// The slot to adopt was made under another link block or another base uid.
    #[error(
        "network slot {index} has no addresses in link_block {block}, or no uid from base_uid {base_uid} on: set what \
         was changed back until its sandbox has ended"
    )]
    IndexOutOfRange { index: u32, block: Ipv4Block, base_uid: u32 },
    /// The index to adopt belongs to another slot of this server.
    #[error("network slot {index} is already in use")]
    IndexInUse { index: u32 },
    /// The namespace to adopt lacks the addresses that this slot must have.
    #[error("the network namespace is not the one of slot {index}: {what}")]
    Miswired { index: u32, what: String },
    #[error("the network is stopping")]
    Stopping,
}
