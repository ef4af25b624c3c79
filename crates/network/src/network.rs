//! The network of one installation: its table, its pool of slots, its book of indices.
//!
//! After a restart: [`Network::start`], [`Network::adopt`] for each sandbox that still runs, then
//! [`Network::start_pool`]. Indices whose veth a former server has left are not given out before the veth is gone.

use crate::config::NetworkConfig;
use crate::dns::DnsStats;
use crate::error::NetworkError;
use crate::links;
use crate::nft;
use crate::plan::{SlotPlan, veth_index};
use crate::prepare::{self, blocking};
use crate::releases;
use crate::rules;
use crate::shared::{Lease, Shared};
use crate::slot::Slot;
use crate::sysctl::{self, SysctlChange};
use leapbox_egress::Journal;
use leapbox_errors::chain;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{AcquireError, Notify, Semaphore};
use tokio::task::JoinSet;

/// Slots prepared at a time when the pool is empty: more only compete for the kernel's one routing lock.
const PREPARING: usize = 4;
/// How long the pool rests after a slot could not be prepared.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often [`Network::stop`] looks whether the prepared slots are gone.
const STOP_CHECK: Duration = Duration::from_millis(5);
/// How long [`Network::stop`] waits for the prepared slots to be gone.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Numbers of the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkStats {
    /// Slots ready to be taken.
    pub prepared: usize,
    /// Slots taken or adopted, and those just being prepared.
    pub in_use: usize,
    /// Closed slots whose namespace is not gone yet.
    pub releasing: usize,
    /// Indices nothing uses.
    pub free: usize,
    /// As configured.
    pub max_slots: u32,
    /// Name service of all slots together.
    pub dns: DnsStats,
}

/// What becomes of the host-wide table when the server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostTable {
    /// Sandboxes go on running and must stay walled in.
    Keep,
    /// No sandbox of this installation is left.
    Remove,
}

/// The network of one installation, in the network namespace of the process that started it.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    ready: Mutex<VecDeque<Slot>>,
    /// Slots the pool is preparing.
    filling: AtomicUsize,
    /// Told when the pool has prepared a slot, or failed to.
    filled: Notify,
    preparing: Arc<Semaphore>,
    stopping: AtomicBool,
    tasks: Mutex<JoinSet<()>>,
    changes: Vec<SysctlChange>,
    /// Names only one process in this namespace can have; they vanish with it.
    _claims: [UnixListener; 2],
}

impl Network {
    /// Walls first: replaces the host-wide table, then lets the host forward. Makes no slot; see [`Self::start_pool`].
    /// Running sandboxes of a former server keep their connections.
    ///
    /// All threads of the calling runtime must be in one network namespace.
    pub async fn start(config: NetworkConfig) -> Result<Arc<Self>, NetworkError> {
        config.check()?;
        let claims = claim_both(&config)?;
        refuse_used_block(&config)?;
        let table = rules::host_table(&config);
        let changes = blocking(move || {
            nft::apply(&table)?;
            sysctl::ensure(Path::new(sysctl::IP_FORWARD), "1")
        });
        let changes = changes.await?.into_iter().collect();
        let shared = Arc::new(Shared::new(config)?);
        let mut tasks = JoinSet::new();
        tasks.spawn(releases::watch(shared.clone()));
        Ok(Arc::new(Self {
            shared,
            ready: Mutex::default(),
            filling: AtomicUsize::new(0),
            filled: Notify::new(),
            preparing: Arc::new(Semaphore::new(PREPARING)),
            stopping: AtomicBool::new(false),
            tasks: Mutex::new(tasks),
            changes,
            _claims: claims,
        }))
    }

    /// Takes over the namespace of a sandbox that a former server started. Its name server is opened again and its
    /// rules are brought to this version; connections through it go on. It is as open as it was, but for the proxy and
    /// names, which need [`crate::Gatekeeper::admit_again`].
    pub async fn adopt(&self, index: u32, netns: OwnedFd) -> Result<Slot, NetworkError> {
        let shared = &self.shared;
        if index >= shared.config.max_slots {
            return Err(NetworkError::IndexOutOfRange { index, max_slots: shared.config.max_slots });
        }
        if !shared.stock().take_exactly(index) {
            return Err(NetworkError::IndexInUse { index });
        }
        let lease = Lease { index, shared: shared.clone() };
        let (plan, netns) = (SlotPlan::new(&shared.config, index), Arc::new(netns));
        prepare::adopt(&plan, netns.clone()).await?;
        links::mend(&shared.root.routing, &plan.veth).await?;
        shared.furnish(lease, plan, netns).await
    }

    /// From now on keeps `prepared` slots ready.
    pub fn start_pool(self: &Arc<Self>) {
        self.tasks().spawn(fill(Arc::downgrade(self), self.shared.clone()));
    }

    /// A slot from the pool, at once; else one prepared now, which takes some ten milliseconds.
    pub async fn take(&self) -> Result<Slot, NetworkError> {
        loop {
            let mut filled = std::pin::pin!(self.filled.notified());
            filled.as_mut().enable();
            if self.stopping.load(Ordering::Acquire) {
                return Err(NetworkError::Stopping);
            }
            let ready = self.ready().pop_front();
            if let Some(slot) = ready {
                self.shared.refill.notify_one();
                return Ok(slot);
            }
            match self.shared.lease() {
                Some(lease) => return self.make(lease).await,
                // The last index is with the pool, and its slot as good as ready.
                None if self.filling.load(Ordering::Acquire) > 0 => filled.await,
                None => return Err(self.exhausted()),
            }
        }
    }

    /// In a task of its own: a caller who gives up must not leave a half-made slot whose index is free already.
    async fn make(&self, lease: Lease) -> Result<Slot, NetworkError> {
        let (shared, preparing) = (self.shared.clone(), self.preparing.clone());
        let task = tokio::spawn(async move {
            let _permit = preparing.acquire_owned().await.map_err(|_: AcquireError| NetworkError::Stopping)?;
            shared.make(lease).await
        });
        task.await.map_err(NetworkError::Task)?
    }

    fn exhausted(&self) -> NetworkError {
        let releasing = self.shared.stock().releasing().len();
        NetworkError::Exhausted { max_slots: self.shared.config.max_slots, releasing }
    }

    /// What of the host's settings [`Self::start`] has changed.
    pub fn host_changes(&self) -> &[SysctlChange] {
        &self.changes
    }

    /// What each sandbox sent out, and what it was denied. Slots that are about to be released are among them.
    pub fn journals(&self) -> Vec<Arc<Journal>> {
        let tenants = self.shared.tenants();
        tenants.values().filter_map(|tenant| tenant.journal.clone()).collect()
    }

    /// Numbers of the moment.
    pub fn stats(&self) -> NetworkStats {
        let prepared = self.ready().len();
        let stock = self.shared.stock();
        NetworkStats {
            prepared,
            in_use: stock.in_use().saturating_sub(prepared),
            releasing: stock.releasing().len(),
            free: stock.free(),
            max_slots: self.shared.config.max_slots,
            dns: self.shared.dns.stats(),
        }
    }

    /// Ends the pool and its prepared slots; slots in use go on without DNS until they are adopted.
    pub async fn stop(&self, table: HostTable) -> Result<(), NetworkError> {
        self.stopping.store(true, Ordering::Release);
        self.filled.notify_waiters();
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
        let ready = std::mem::take(&mut *self.ready());
        let veths: Vec<String> = ready.iter().map(|slot| slot.veth().to_owned()).collect();
        for slot in ready {
            slot.close().await;
        }
        let gone = async {
            while !veths.iter().all(|veth| links::is_gone(veth)) {
                tokio::time::sleep(STOP_CHECK).await;
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, gone).await.is_err() {
            tracing::warn!("some prepared network slots are not gone yet");
        }
        match table {
            HostTable::Keep => Ok(()),
            HostTable::Remove => {
                let script = rules::no_host_table(&self.shared.config.instance);
                blocking(move || nft::apply(&script)).await
            }
        }
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Slot>> {
        self.ready.lock()
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock()
    }

    /// Prepares one slot if the pool wants one and an index is free.
    async fn fill_one(&self) -> Result<bool, NetworkError> {
        if self.ready().len() >= self.shared.config.prepared {
            return Ok(false);
        }
        let Some(lease) = self.shared.lease() else { return Ok(false) };
        self.filling.fetch_add(1, Ordering::AcqRel);
        let made = self.make(lease).await.map(|slot| self.ready().push_back(slot));
        self.filling.fetch_sub(1, Ordering::AcqRel);
        self.filled.notify_waiters();
        made.map(|()| true)
    }
}

/// The pool's task. It does not keep the network alive.
async fn fill(network: Weak<Network>, shared: Arc<Shared>) {
    loop {
        let Some(living) = network.upgrade() else { return };
        let filled = living.fill_one().await;
        drop(living);
        match filled {
            Ok(true) => {}
            Ok(false) => shared.refill.notified().await,
            Err(error) => {
                tracing::error!(error = %chain(&error), "a network slot could not be prepared");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// One server an instance, one instance a block.
fn claim_both(config: &NetworkConfig) -> Result<[UnixListener; 2], NetworkError> {
    Ok([claim(&format!("instance {}", config.instance))?, claim(&format!("link block {}", config.link_block))?])
}

/// A name in the kernel's abstract namespace, which is the network namespace's own.
fn claim(what: &str) -> Result<UnixListener, NetworkError> {
    let bind = || UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!("leapbox-network {what}"))?);
    bind().map_err(|source| NetworkError::Claimed { what: what.to_owned(), source })
}

/// Sandboxes of another installation may run while its server is down; the host may use the block for itself.
fn refuse_used_block(config: &NetworkConfig) -> Result<(), NetworkError> {
    let mut taken = links::addresses()?.into_iter();
    let foreign =
        |(name, ip): &(String, _)| config.link_block.contains(*ip) && veth_index(&config.instance, name).is_none();
    match taken.find(foreign) {
        None => Ok(()),
        Some((interface, address)) => {
            Err(NetworkError::LinkBlockInUse { block: config.link_block, interface, address })
        }
    }
}
