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
use std::collections::HashMap;
use std::sync::Arc;
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
    /// Notified when a slot is closed and its index waits for release.
    pub(crate) releasing: Notify,
    /// Notified when the pool may prepare a slot: one was taken, or an index was freed.
    pub(crate) refill: Notify,
}

/// The journal and the opened networks of a slot's sandbox, kept until the slot no longer exists.
#[derive(Debug, Default)]
pub(crate) struct SlotSandbox {
    pub(crate) journal: Option<Arc<Journal>>,
    /// The networks that are opened to it in the host-wide table.
    pub(crate) opened: Vec<Cidr>,
}

impl Shared {
    pub(crate) fn new(config: NetworkConfig) -> Result<Self, NetworkError> {
        // Slots of a previous server's running sandboxes: their indices are in use until they are adopted or end.
        let left = links::names()?.iter().filter_map(|name| veth_index(&config.instance, name)).collect();
        Ok(Self {
            root: Root { netns: Arc::new(namespace::current()?), routing: links::open()? },
            netns_thread: NamespaceThread::start()?,
            dns: Arc::new(Dns::new(Upstream::new(config.dns_upstreams.as_deref())?)),
            proxy: leapbox_egress::Proxy::new().map_err(|source| NetworkError::Egress { source })?,
            indices: Mutex::new(IndexAllocator::new(config.max_slots, left)),
            sandboxes: Mutex::default(),
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
