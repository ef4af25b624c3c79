//! What slots and tasks of one network share.

use crate::config::NetworkConfig;
use crate::dns::{Dns, Upstream};
use crate::error::NetworkError;
use crate::links;
use crate::namespace::{self, Worker};
use crate::plan::veth_index;
use crate::prepare::Root;
use crate::stock::Stock;
use leapbox_egress::Journal;
use leapbox_egress_policy::Cidr;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// What slots and tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: NetworkConfig,
    pub(crate) root: Root,
    pub(crate) worker: Worker,
    pub(crate) dns: Arc<Dns>,
    pub(crate) proxy: Arc<leapbox_egress::Proxy>,
    stock: Mutex<Stock>,
    tenants: Mutex<HashMap<u32, Tenant>>,
    /// Told when an index begins to be released.
    pub(crate) releasing: Notify,
    /// Told when the pool may have something to do.
    pub(crate) refill: Notify,
}

/// What is known of a slot's sandbox, until the slot is gone.
#[derive(Debug, Default)]
pub(crate) struct Tenant {
    pub(crate) journal: Option<Arc<Journal>>,
    /// Opened to it in the host-wide table.
    pub(crate) private: Vec<Cidr>,
}

impl Shared {
    pub(crate) fn new(config: NetworkConfig) -> Result<Self, NetworkError> {
        let left = links::names()?.iter().filter_map(|name| veth_index(&config.instance, name)).collect();
        Ok(Self {
            root: Root { netns: Arc::new(namespace::current()?), routing: links::open()? },
            worker: Worker::start()?,
            dns: Arc::new(Dns::new(Upstream::new(config.dns_upstreams.as_deref())?)),
            proxy: leapbox_egress::Proxy::new().map_err(|source| NetworkError::Egress { source })?,
            stock: Mutex::new(Stock::new(config.max_slots, left)),
            tenants: Mutex::default(),
            releasing: Notify::new(),
            refill: Notify::new(),
            config,
        })
    }

    pub(crate) fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock()
    }

    pub(crate) fn tenants(&self) -> MutexGuard<'_, HashMap<u32, Tenant>> {
        self.tenants.lock()
    }

    pub(crate) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let index = self.stock().take()?;
        Some(Lease { index, shared: self.clone() })
    }

    pub(crate) fn release(&self, index: u32) {
        self.stock().release(index);
        self.releasing.notify_one();
    }
}

/// An index in use. Dropping it asks for its release, which happens once the slot's veth is gone.
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
