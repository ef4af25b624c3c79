//! The state that the slots and tasks of one network share.

use crate::config::NetworkConfig;
use crate::dns::{Dns, Upstream};
use crate::error::NetworkError;
use crate::index_allocator::IndexAllocator;
use crate::links;
use crate::namespace::{self, NamespaceThread};
use crate::plan::veth_index;
use crate::prepare::Root;
use leapbox_egress::Journal;
use leapbox_egress_policy::Cidr;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::Notify;

/// The shared state of one network. It is made at the network's start and lives as long as its last slot.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: NetworkConfig,
    pub(crate) root: Root,
    pub(crate) netns_thread: NamespaceThread,
    pub(crate) dns: Arc<Dns>,
    pub(crate) proxy: Arc<leapbox_egress::Proxy>,
    indices: Mutex<IndexAllocator>,
    sandboxes: Mutex<HashMap<u32, SlotSandbox>>,
    /// Whether the host-wide table has to be there. Whoever changes the table, or a sandbox's opened networks in it,
    /// holds this lock until both agree: the watch restores the table by what it finds here.
    pub(crate) host_table: Mutex<bool>,
    /// How often the watch has restored the host-wide table.
    pub(crate) host_rules_restored: AtomicU64,
    /// Notified when a slot is closed and its index waits for release.
    pub(crate) releasing: Notify,
    /// Notified when the pool may prepare a slot: one was taken, or an index was freed.
    pub(crate) refill: Notify,
}

/// The journal and the opened networks of a slot's sandbox, kept until the slot no longer exists.
#[derive(Debug, Default)]
pub(crate) struct SlotSandbox {
    pub(crate) journal: Option<Arc<Journal>>,
    /// The networks that are opened to it in the host-wide table, or are about to be.
    pub(crate) opened: Vec<Cidr>,
    /// Whether they are in the table. Changed under the lock `Shared::host_table`.
    pub(crate) in_force: bool,
}

/// Returns the indices of the slots of this instance whose veths a previous server has left.
pub(crate) fn left_indices(instance: &str) -> Result<BTreeSet<u32>, NetworkError> {
    Ok(links::names()?.iter().filter_map(|name| veth_index(instance, name)).collect())
}

impl Shared {
    /// `left` are the indices of a previous server's running sandboxes, in use until they are adopted or end.
    pub(crate) fn new(config: NetworkConfig, left: BTreeSet<u32>) -> Result<Self, NetworkError> {
        Ok(Self {
            root: Root { netns: Arc::new(namespace::current()?), routing: links::open()? },
            netns_thread: NamespaceThread::start()?,
            dns: Arc::new(Dns::new(Upstream::new(config.dns_upstreams.as_deref())?)),
            proxy: leapbox_egress::Proxy::new().map_err(|source| NetworkError::Egress { source })?,
            indices: Mutex::new(IndexAllocator::new(config.max_slots, left)),
            sandboxes: Mutex::default(),
            host_table: Mutex::new(true),
            host_rules_restored: AtomicU64::new(0),
            releasing: Notify::new(),
            refill: Notify::new(),
            config,
        })
    }

    pub(crate) fn indices(&self) -> MutexGuard<'_, IndexAllocator> {
        self.indices.lock()
    }

    pub(crate) fn sandboxes(&self) -> MutexGuard<'_, HashMap<u32, SlotSandbox>> {
        self.sandboxes.lock()
    }

    pub(crate) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let index = self.indices().take()?;
        Some(Lease { index, shared: self.clone() })
    }

    pub(crate) fn release(&self, index: u32) {
        self.indices().release(index);
        self.releasing.notify_one();
    }
}

/// An index in use. Dropping it requests its release, which follows once the slot's veth no longer exists.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) index: u32,
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.release(self.index);
    }
}
