//! The pool of clones that are kept ready for creates.
//!
//! A pooled clone runs, is warmed up (it has executed once what a first command executes), and belongs to no sandbox
//! yet. How many are kept follows demand: every create counts, and a count halves in a minute. Of the default shape one
//! is always kept. A pooled clone holds a share of the host's capacity like any machine, and is destroyed when a create
//! needs that share.

use super::capacity::Capacity;
use super::launch::{Disk, Launcher};
use super::vm::Vm;
use super::{Activation, SandboxVm};
use crate::catalog::Template;
use crate::config::PoolLimits;
use crate::error::LaunchError;

use futures::FutureExt;
use leapbox_bases::BaseKind;
use leapbox_errors::chain;
use leapbox_ids::{SandboxId, TemplateId};
use leapbox_vmm::Shape;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Time in which the counted demand of a shape halves: bursts of creates come within seconds of each other, and a pool
/// that is not used any more should be gone after a few minutes.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Demand below this counts as none. One create falls below it after 4.3 minutes.
const NEGLIGIBLE_DEMAND: f64 = 0.05;
/// How often the pool is looked through although nothing has changed: demand decays, and clones die, without an event.
const SWEEP: Duration = Duration::from_secs(5);
/// How long no clone of a shape is launched after one could not be. Launching fails for reasons that last (a full host,
/// a base that does not boot), and trying without a pause would keep a core busy.
const BACKOFF: Duration = Duration::from_secs(10);

type Key = (TemplateId, Shape);

/// The ready clones of one template and shape, and the demand for them.
struct DemandEntry {
    template: Arc<Template>,
    ready: Vec<Vm>,
    /// Creates so far, halved for every [`HALF_LIFE`] since; as of `counted_at`.
    demand: f64,
    /// The least number that is kept ready, whatever the demand.
    min_ready: usize,
    counted_at: Instant,
    not_before: Option<Instant>,
}

impl DemandEntry {
    fn decay(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.demand *= 0.5_f64.powf(elapsed / HALF_LIFE.as_secs_f64());
        self.counted_at = now;
    }

    /// How many clones to keep ready.
    fn wanted(&self, per_shape: usize) -> usize {
        // One more than the recent creates, so that a burst that repeats finds a clone for each of its creates.
        let recent = if self.demand < NEGLIGIBLE_DEMAND { 0 } else { 1 + self.demand.round() as usize };
        per_shape.min(recent.max(self.min_ready))
    }
}

pub(crate) struct Pool {
    limits: PoolLimits,
    entries: Mutex<HashMap<Key, DemandEntry>>,
    changed: Notify,
    /// Number of creates and wakes that are launching a machine of their own. The pool launches nothing meanwhile.
    busy: AtomicUsize,
    /// Whether a clone is being made for the pool; it holds a share of the capacity.
    filling: watch::Sender<bool>,
}

/// Keeps the pool from launching clones until it is dropped.
pub(crate) struct Busy<'a>(&'a Pool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

impl Pool {
    pub fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            entries: Mutex::default(),
            changed: Notify::new(),
            busy: AtomicUsize::new(0),
            filling: watch::Sender::new(false),
        }
    }

    /// Keeps one clone of this shape ready whatever the demand.
    pub fn keep_one(&self, template: &Arc<Template>, shape: Shape) {
        let (key, now) = ((template.id.clone(), shape), Instant::now());
        self.entries.lock().entry(key).or_insert_with(|| new_entry(template, now)).min_ready = 1;
        self.changed.notify_one();
    }

    /// Counts a create as demand.
    pub fn count(&self, template: &Arc<Template>, shape: Shape) {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        let entry = entries.entry((template.id.clone(), shape)).or_insert_with(|| new_entry(template, now));
        entry.decay(now);
        entry.demand += 1.0;
        drop(entries);
        self.changed.notify_one();
    }

    /// Takes a ready clone that is alive, if there is one. Dead ones are left for [`Pool::run`] to clean up.
    pub fn take(&self, template: &Template, shape: Shape) -> Option<Vm> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(&(template.id.clone(), shape))?;
        let index = entry.ready.iter().position(is_alive)?;
        Some(entry.ready.remove(index))
    }

    /// If a clone is being made for the pool now, waits until that has ended; false if none is.
    pub async fn wait_for_fill(&self) -> bool {
        let mut filling = self.filling.subscribe();
        let was_filling = *filling.borrow();
        // Cannot fail: `self` owns the sender.
        let _ = filling.wait_for(|filling| !filling).await;
        was_filling
    }

    /// Takes any ready clone out of the pool, to be destroyed for its share of the capacity.
    pub fn evict_one(&self) -> Option<Vm> {
        self.entries.lock().values_mut().find_map(|entry| entry.ready.pop())
    }

    /// Sum of the memory sizes of the ready clones, in MiB.
    pub fn promised_mib(&self) -> u64 {
        self.entries
            .lock()
            .iter()
            .map(|((_, shape), entry)| entry.ready.len() as u64 * u64::from(shape.memory_mib))
            .sum()
    }

    /// Number of ready clones.
    pub fn ready(&self) -> usize {
        self.entries.lock().values().map(|entry| entry.ready.len()).sum()
    }

    /// Keeps the pool from launching clones while the guard lives.
    pub fn busy(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    /// Keeps the pool filled until `stop`; then destroys what it holds.
    pub async fn run(&self, launcher: &Launcher, capacity: &Capacity, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            for vm in self.surplus() {
                Box::new(vm).destroy().await;
            }
            // One at a time, and only when no client waits for a launch: a clone for the pool takes as much CPU time as
            // the launch that the client waits for.
            let next = if self.busy.load(Ordering::Relaxed) == 0 { self.most_wanted() } else { None };
            match next {
                Some((template, shape)) => {
                    self.filling.send_replace(true);
                    self.add_one(&template, shape, launcher, capacity).await;
                    self.filling.send_replace(false);
                }
                None => tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(SWEEP) => {}
                },
            }
        }
        // A pooled clone is no sandbox's, so the next server would remove it as a leftover anyway.
        let left: Vec<Vm> = self.entries.lock().values_mut().flat_map(|entry| entry.ready.drain(..)).collect();
        for vm in left {
            Box::new(vm).destroy().await;
        }
    }

    async fn add_one(&self, template: &Arc<Template>, shape: Shape, launcher: &Launcher, capacity: &Capacity) {
        let key = (template.id.clone(), shape);
        let launched = async {
            let base = launcher.bases.get(&template.image, shape, BaseKind::Ready).await.map_err(LaunchError::Base)?;
            // Without making room: the pool takes only capacity that nobody else uses.
            match capacity.admit(shape) {
                Ok(share) => launcher.launch(template, base, Disk::OfBase, None, share).await.map(Some),
                Err(_) => Ok(None),
            }
        };
        match launched.await {
            Ok(None) => self.back_off(&key),
            Ok(Some(vm)) => match warm_up(&vm).await {
                Ok(()) => self.put(&key, vm),
                Err(error) => {
                    tracing::warn!(
                        %shape, error = %chain(&error),
                        "a pooled clone could not be warmed up and was destroyed"
                    );
                    Box::new(vm).destroy().await;
                    self.back_off(&key);
                }
            },
            Err(error) => {
                tracing::warn!(%shape, error = %chain(&error), "a clone for the pool could not be launched");
                self.back_off(&key);
            }
        }
    }

    fn put(&self, key: &Key, vm: Vm) {
        if let Some(entry) = self.entries.lock().get_mut(key) {
            entry.ready.push(vm);
        }
    }

    fn back_off(&self, key: &Key) {
        if let Some(entry) = self.entries.lock().get_mut(key) {
            entry.not_before = Some(Instant::now() + BACKOFF);
        }
    }

    /// Takes dead clones, and those beyond the demand, out of the pool.
    fn surplus(&self) -> Vec<Vm> {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        let mut surplus = Vec::new();
        for entry in entries.values_mut() {
            entry.decay(now);
            let wanted = entry.wanted(self.limits.per_shape);
            while entry.ready.len() > wanted {
                surplus.extend(entry.ready.pop());
            }
            while let Some(dead) = entry.ready.iter().position(|vm| !is_alive(vm)) {
                surplus.push(entry.ready.remove(dead));
            }
        }
        // An organisation can ask for thousands of shapes; entries without demand must not pile up.
        entries.retain(|_, entry| entry.demand >= NEGLIGIBLE_DEMAND || entry.min_ready > 0 || !entry.ready.is_empty());
        surplus
    }

    /// The template and shape that lack the most clones, among those of which one more fits the memory bound.
    fn most_wanted(&self) -> Option<(Arc<Template>, Shape)> {
        let now = Instant::now();
        let entries = self.entries.lock();
        let held: u64 = entries.iter().map(|((_, shape), s)| s.ready.len() as u64 * u64::from(shape.memory_mib)).sum();
        let room = self.limits.memory_mib.saturating_sub(held);
        let lacking = |entry: &DemandEntry| entry.wanted(self.limits.per_shape).saturating_sub(entry.ready.len());
        entries
            .iter()
            .filter(|((_, shape), entry)| {
                lacking(entry) > 0
                    && u64::from(shape.memory_mib) <= room
                    && entry.not_before.is_none_or(|time| time <= now)
            })
            .max_by_key(|(_, entry)| lacking(entry))
            .map(|((_, shape), entry)| (Arc::clone(&entry.template), *shape))
    }
}

/// Warms the clone up: makes it execute once what its activation and a first command will execute.
async fn warm_up(vm: &Vm) -> Result<(), LaunchError> {
    // Under emulation the first run of any code is several times slower, because QEMU translates it then. This is most
    // of what took a pooled create from 206 to 13 ms. The identity is thrown away: an activation gives another one.
    vm.take_identity(&SandboxId::generate(), Activation::New(&[]), None).await?;
    vm.guest.warm().await.map_err(|source| LaunchError::Agent { stage: "warming up", source })
}

fn new_entry(template: &Arc<Template>, now: Instant) -> DemandEntry {
    DemandEntry {
        template: Arc::clone(template),
        ready: Vec::new(),
        demand: 0.0,
        min_ready: 0,
        counted_at: now,
        not_before: None,
    }
}

fn is_alive(vm: &Vm) -> bool {
    vm.machine.exited().now_or_never().is_none()
}
