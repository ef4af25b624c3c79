//! The network of one installation: its host-wide table, its pool of slots, and its indices.
//!
//! A restarted server calls [`Network::start`], then [`Network::adopt`] for each sandbox that still runs, then
//! [`Network::start_pool`]. An index whose veth a previous server has left is not given out while the veth exists.

use crate::claims::{self, Claims};
use crate::config::NetworkConfig;
use crate::dns::DnsStats;
use crate::error::NetworkError;
use crate::host_table::{self, Guard};
use crate::links;
use crate::nft;
use crate::plan::{SlotPlan, veth_index};
use crate::prepare::{self, blocking};
use crate::releases;
use crate::rules;
use crate::shared::{Lease, Shared, left_indices};
use crate::slot::Slot;
use crate::sysctl::{self, SysctlChange};
use leapbox_egress::Journal;
use leapbox_errors::chain;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{AcquireError, Notify, Semaphore};
use tokio::task::JoinSet;

// Slots that are prepared at a time. More would only compete for the kernel's one lock on interfaces and routes (rtnl).
const PREPARING: usize = 4;
// Pause of the pool after a slot could not be prepared, so that a lasting fault fills neither the CPU nor the log.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Interval at which [`Network::stop`] looks whether the prepared slots still exist.
const STOP_CHECK: Duration = Duration::from_millis(5);
// Namespaces end in the kernel's own time, usually within milliseconds. A server that stops must not wait for it for
// ever: the next one waits with those indices.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The number of slots in each state, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkStats {
    /// Slots that are ready to be taken.
    pub prepared: usize,
    /// Slots that are taken, adopted, or being prepared.
    pub in_use: usize,
    /// Closed slots whose namespace still exists.
    pub releasing: usize,
    /// Indices that nothing uses.
    pub free: usize,
    pub max_slots: u32,
    /// How often another program had removed something of the host-wide table, which was then put back.
    pub host_rules_restored: u64,
    /// Counters of the name servers of all slots together.
    pub dns: DnsStats,
}

/// Whether the host-wide table stays when the server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostTable {
    /// Sandboxes go on running and must stay isolated.
    Keep,
    /// No sandbox of this installation runs any more.
    Remove,
}

/// The network of one installation, in the network namespace of the process that started it.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    ready: Mutex<VecDeque<Slot>>,
    /// Number of slots that the pool is preparing.
    filling: AtomicUsize,
    /// Notified when the pool has prepared a slot, or has failed to.
    filled: Notify,
    preparing: Arc<Semaphore>,
    stopping: AtomicBool,
    tasks: Mutex<JoinSet<()>>,
    changes: Vec<SysctlChange>,
    _claims: Claims,
}

impl Network {
    /// Starts the network: replaces the host-wide table, lets the host forward, and keeps the table there as long as
    /// this runs. It makes no slot; see [`Self::start_pool`]. Running sandboxes of a previous server keep their
    /// connections; ask [`crate::check_takeover`] before whether these settings are theirs.
    ///
    /// All threads of the calling runtime must be in one network namespace.
    pub async fn start(config: NetworkConfig) -> Result<Arc<Self>, NetworkError> {
        config.check()?;
        let left = left_indices(&config.instance)?;
        let claims = claims::take(&config, &left)?;
        refuse_used_block(&config)?;
        let expected = host_table::expected(&config).await?;
        let table = rules::host_table(&config);
        let changes = blocking(move || {
            // The table first: a host that forwards without it would forward for sandboxes that are not isolated.
            nft::apply(&table)?;
            sysctl::ensure(Path::new(sysctl::IP_FORWARD), "1")
        });
        let changes = changes.await?.into_iter().collect();
        let guard = guard(&config.instance);
        let shared = Arc::new(Shared::new(config, left)?);
        let mut tasks = JoinSet::new();
        tasks.spawn(releases::watch(shared.clone()));
        tasks.spawn(host_table::watch(shared.clone(), expected, guard));
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

    /// Takes over the namespace of a sandbox that a previous server has started. Its name server is opened again and
    /// its rules are brought to this version; connections through it go on. Its sets stay as they are, so it reaches
    /// what it reached directly before; the proxy and names need [`crate::PolicyInstaller::install_again`].
    ///
    /// The index may be beyond `max_slots`. It may be called for many slots at a time, and while the pool runs. After
    /// an error the slot is as before and can be adopted again.
    pub async fn adopt(&self, index: u32, netns: OwnedFd) -> Result<Slot, NetworkError> {
        let (shared, config) = (&self.shared, &self.shared.config);
        let plan = SlotPlan::of_left(config, index).ok_or(NetworkError::IndexOutOfRange {
            index,
            block: config.link_block,
            base_uid: config.base_uid,
        })?;
        if !shared.indices().take_exactly(index) {
            return Err(NetworkError::IndexInUse { index });
        }
        // Dropped after an error, it makes the index wait for its veth to end, as it did before.
        let lease = Lease { index, shared: shared.clone() };
        let _permit = self.preparing.acquire().await.map_err(|_: AcquireError| NetworkError::Stopping)?;
        let netns = Arc::new(netns);
        prepare::adopt(&plan, netns.clone()).await?;
        let slot = shared.attach_dns(lease, plan, netns).await?;
        // The last step: the previous server may have cut the slot off, and after an error it stays so.
        links::set_up_veth(&shared.root.routing, slot.veth()).await?;
        Ok(slot)
    }

    /// Starts the task that keeps `prepared` slots ready. Slots of a previous server must have been adopted before.
    pub fn start_pool(self: &Arc<Self>) {
        self.tasks().spawn(fill(Arc::downgrade(self), self.shared.clone()));
    }

    /// Returns a slot of the pool at once, or else prepares one, which takes some ten milliseconds.
    pub async fn take(&self) -> Result<Slot, NetworkError> {
        loop {
            // Registered before the pool is looked at: a slot that is ready right after the look would not be noticed.
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
                // The pool has the last index and is preparing its slot, which will be ready in a moment.
                None if self.filling.load(Ordering::Acquire) > 0 => filled.await,
                None => return Err(self.exhausted()),
            }
        }
    }

    async fn make(&self, lease: Lease) -> Result<Slot, NetworkError> {
        // In a task of its own, which finishes when the caller gives up: dropped half way, it would free the index
        // while the thread that prepares the slot still works on it.
        let (shared, preparing) = (self.shared.clone(), self.preparing.clone());
        let task = tokio::spawn(async move {
            let _permit = preparing.acquire_owned().await.map_err(|_: AcquireError| NetworkError::Stopping)?;
            shared.make(lease).await
        });
        task.await.map_err(NetworkError::Task)?
    }

    fn exhausted(&self) -> NetworkError {
        let releasing = self.shared.indices().releasing().len();
        NetworkError::Exhausted { max_slots: self.shared.config.max_slots, releasing }
    }

    /// The settings of the host that [`Self::start`] has changed.
    pub fn host_changes(&self) -> &[SysctlChange] {
        &self.changes
    }

    /// The egress journals of all sandboxes, including those whose slots are being released.
    pub fn journals(&self) -> Vec<Arc<Journal>> {
        let sandboxes = self.shared.sandboxes();
        sandboxes.values().filter_map(|sandbox| sandbox.journal.clone()).collect()
    }

    pub fn stats(&self) -> NetworkStats {
        let prepared = self.ready().len();
        let indices = self.shared.indices();
        NetworkStats {
            prepared,
            // The two locks are taken one after the other, so the difference could be negative for a moment.
            in_use: indices.in_use().saturating_sub(prepared),
            releasing: indices.releasing().len(),
            free: indices.free(),
            max_slots: self.shared.config.max_slots,
            host_rules_restored: self.shared.host_rules_restored.load(Ordering::Relaxed),
            dns: self.shared.dns.stats(),
        }
    }

    /// Ends the pool and its prepared slots. Slots in use go on without name server and proxy until they are adopted.
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
            tracing::warn!("some prepared network slots still exist; the kernel has not ended their namespaces yet");
        }
        match table {
            HostTable::Keep => Ok(()),
            HostTable::Remove => {
                let (shared, script) = (self.shared.clone(), rules::no_host_table(&self.shared.config.instance));
                blocking(move || {
                    // A restoration that has begun before the watch ended comes before this, or finds nothing to do.
                    let mut kept = shared.host_table.lock();
                    *kept = false;
                    nft::apply(&script)
                })
                .await
            }
        }
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Slot>> {
        self.ready.lock()
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock()
    }

    /// Prepares one slot if the pool is not full and an index is free. Returns whether it has.
    async fn fill_one(&self) -> Result<bool, NetworkError> {
        if self.ready().len() >= self.shared.config.prepared {
            return Ok(false);
        }
        // Counted before the lease is taken: `take`, which finds no index left, must see that a slot is being made.
        self.filling.fetch_add(1, Ordering::AcqRel);
        let made = match self.shared.lease() {
            Some(lease) => self.make(lease).await.map(|slot| self.ready().push_back(slot)).map(|()| true),
            None => Ok(false),
        };
        self.filling.fetch_sub(1, Ordering::AcqRel);
        // Also if no slot was made: whoever waits for one has to look again.
        self.filled.notify_waiters();
        made
    }
}

/// The pool's task. It holds the network weakly, so that dropping the network ends the task.
async fn fill(network: Weak<Network>, shared: Arc<Shared>) {
    loop {
        let Some(living) = network.upgrade() else { return };
        let filled = living.fill_one().await;
        drop(living);
        match filled {
            Ok(true) => {}
            Ok(false) => shared.refill.notified().await,
            Err(error) => {
                tracing::error!(error = %chain(&error), "a network slot could not be prepared; the pool tries again");
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
}

/// Makes the guard of the host-wide table, if the kernel can.
fn guard(instance: &str) -> Option<Guard> {
    let made = Guard::set(instance).inspect_err(|error| {
        tracing::warn!(
            error = %chain(error),
            "the host-wide nftables table has no guard (Linux 5.12 is needed): if another program removes it, as `nft \
             flush ruleset` does, sandboxes reach the host and closed addresses for about a second"
        );
    });
    made.ok()
}

/// Refuses a link block in which the host, or another installation's slot, has an address.
fn refuse_used_block(config: &NetworkConfig) -> Result<(), NetworkError> {
    // The claim does not show these: another installation's server may be down while its sandboxes run, and its block
    // may only overlap this one.
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
