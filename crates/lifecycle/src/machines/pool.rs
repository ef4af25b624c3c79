//! Clones kept ready for the shapes in use.
//!
//! A pooled clone runs, has executed once what a first command executes, and is nobody's. How many are kept follows
//! demand: every create counts, and a count fades by half in a minute; of the default shape one is always kept. A pooled clone holds a share of the host's
//! capacity like any other and is given up when a create needs that share.

use super::capacity::Capacity;
use super::launch::{Disk, Launcher};
use super::vm::Vm;
use super::{Identity, SandboxVm};
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

/// After this long half of a shape's demand is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Demand below this is none.
const FADED: f64 = 0.05;
/// How often the pool looks after itself without being told to.
const SWEEP: Duration = Duration::from_secs(5);
/// How long the pool leaves a shape alone after it could not be launched.
const BACKOFF: Duration = Duration::from_secs(10);

type Key = (TemplateId, Shape);

/// What is known of one template and shape.
struct Shelf {
    template: Arc<Template>,
    ready: Vec<Vm>,
    demand: f64,
    /// At least so many are kept, whatever the demand.
    least: usize,
    counted_at: Instant,
    not_before: Option<Instant>,
}

impl Shelf {
    fn fade(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.demand *= 0.5_f64.powf(elapsed / HALF_LIFE.as_secs_f64());
        self.counted_at = now;
    }

    /// How many to keep: one more than the recent creates, within the bound; the least once they have faded.
    fn wanted(&self, per_shape: usize) -> usize {
        let recent = if self.demand < FADED { 0 } else { 1 + self.demand.round() as usize };
        per_shape.min(recent.max(self.least))
    }
}

pub(crate) struct Pool {
    limits: PoolLimits,
    shelves: Mutex<HashMap<Key, Shelf>>,
    changed: Notify,
    /// Creates that are launching a clone of their own right now: they go first.
    busy: AtomicUsize,
    /// A clone is being made for the pool, and holds a share of the capacity.
    filling: watch::Sender<bool>,
}

/// Holds the pool's refilling back while a create launches.
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
            shelves: Mutex::default(),
            changed: Notify::new(),
            busy: AtomicUsize::new(0),
            filling: watch::Sender::new(false),
        }
    }

    /// Keeps one clone of this shape ready whatever the demand.
    pub fn keep_one(&self, template: &Arc<Template>, shape: Shape) {
        let now = Instant::now();
        self.shelves.lock().entry((template.id.clone(), shape)).or_insert_with(|| new_shelf(template, now)).least = 1;
        self.changed.notify_one();
    }

    /// Counts a create.
    pub fn count(&self, template: &Arc<Template>, shape: Shape) {
        let now = Instant::now();
        let mut shelves = self.shelves.lock();
        let shelf = shelves.entry((template.id.clone(), shape)).or_insert_with(|| new_shelf(template, now));
        shelf.fade(now);
        shelf.demand += 1.0;
        drop(shelves);
        self.changed.notify_one();
    }

    /// A ready clone, if there is one.
    pub fn take(&self, template: &Template, shape: Shape) -> Option<Vm> {
        let mut shelves = self.shelves.lock();
        let shelf = shelves.get_mut(&(template.id.clone(), shape))?;
        let index = shelf.ready.iter().position(is_alive)?;
        Some(shelf.ready.remove(index))
    }

    /// If a clone is being made for the pool right now, waits until it is there; false if none is.
    pub async fn being_filled(&self) -> bool {
        let mut filling = self.filling.subscribe();
        let was_filling = *filling.borrow();
        // The sender is our own.
        let _ = filling.wait_for(|filling| !filling).await;
        was_filling
    }

    /// Gives up one ready clone, if there is any, so that a create has its share.
    pub fn give_up_one(&self) -> Option<Vm> {
        self.shelves.lock().values_mut().find_map(|shelf| shelf.ready.pop())
    }

    /// Memory promised to the clones ready now, in MiB.
    pub fn promised_mib(&self) -> u64 {
        self.shelves
            .lock()
            .iter()
            .map(|((_, shape), shelf)| shelf.ready.len() as u64 * u64::from(shape.memory_mib))
            .sum()
    }

    /// Clones ready now.
    pub fn ready(&self) -> usize {
        self.shelves.lock().values().map(|shelf| shelf.ready.len()).sum()
    }

    /// Refilling waits while the guard lives.
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
        let left: Vec<Vm> = self.shelves.lock().values_mut().flat_map(|shelf| shelf.ready.drain(..)).collect();
        for vm in left {
            Box::new(vm).destroy().await;
        }
    }

    async fn add_one(&self, template: &Arc<Template>, shape: Shape, launcher: &Launcher, capacity: &Capacity) {
        let key = (template.id.clone(), shape);
        let launched = async {
            let base = launcher.bases.get(&template.image, shape, BaseKind::Ready).await.map_err(LaunchError::Warm)?;
            match capacity.admit(shape) {
                Ok(permit) => launcher.launch(template, base, Disk::OfBase, None, permit).await.map(Some),
                Err(_) => Ok(None),
            }
        };
        match launched.await {
            Ok(None) => self.back_off(&key),
            Ok(Some(vm)) => match rehearse(&vm).await {
                Ok(()) => self.put(&key, vm),
                Err(error) => {
                    tracing::warn!(%shape, error = %chain(&error), "a pooled clone did not warm up");
                    Box::new(vm).destroy().await;
                    self.back_off(&key);
                }
            },
            Err(error) => {
                tracing::warn!(%shape, error = %chain(&error), "no clone for the pool");
                self.back_off(&key);
            }
        }
    }

    fn put(&self, key: &Key, vm: Vm) {
        if let Some(shelf) = self.shelves.lock().get_mut(key) {
            shelf.ready.push(vm);
        }
    }

    fn back_off(&self, key: &Key) {
        if let Some(shelf) = self.shelves.lock().get_mut(key) {
            shelf.not_before = Some(Instant::now() + BACKOFF);
        }
    }

    /// Takes out what is dead or no longer wanted.
    fn surplus(&self) -> Vec<Vm> {
        let now = Instant::now();
        let mut shelves = self.shelves.lock();
        let mut surplus = Vec::new();
        for shelf in shelves.values_mut() {
            shelf.fade(now);
            let wanted = shelf.wanted(self.limits.per_shape);
            while shelf.ready.len() > wanted {
                surplus.extend(shelf.ready.pop());
            }
            while let Some(dead) = shelf.ready.iter().position(|vm| !is_alive(vm)) {
                surplus.push(shelf.ready.remove(dead));
            }
        }
        shelves.retain(|_, shelf| shelf.demand >= FADED || shelf.least > 0 || !shelf.ready.is_empty());
        surplus
    }

    /// The shape that lacks most, if one more fits the memory bound.
    fn most_wanted(&self) -> Option<(Arc<Template>, Shape)> {
        let now = Instant::now();
        let shelves = self.shelves.lock();
        let held: u64 = shelves.iter().map(|((_, shape), s)| s.ready.len() as u64 * u64::from(shape.memory_mib)).sum();
        let room = self.limits.memory_mib.saturating_sub(held);
        let lacking = |shelf: &Shelf| shelf.wanted(self.limits.per_shape).saturating_sub(shelf.ready.len());
        shelves
            .iter()
            .filter(|((_, shape), shelf)| {
                lacking(shelf) > 0
                    && u64::from(shape.memory_mib) <= room
                    && shelf.not_before.is_none_or(|time| time <= now)
            })
            .max_by_key(|(_, shelf)| lacking(shelf))
            .map(|((_, shape), shelf)| (Arc::clone(&shelf.template), *shape))
    }
}

/// Lets the clone do once what handing it over and a first command will make it do: under emulation the first time is
/// several times slower. The identity is thrown away: the clone gets its own when it is handed over.
async fn rehearse(vm: &Vm) -> Result<(), LaunchError> {
    vm.take_identity(&SandboxId::generate(), Identity::New(&[]), None).await?;
    vm.guest.warm().await.map_err(|source| LaunchError::Agent { stage: "warming up", source })
}

fn new_shelf(template: &Arc<Template>, now: Instant) -> Shelf {
    Shelf {
        template: Arc::clone(template),
        ready: Vec::new(),
        demand: 0.0,
        least: 0,
        counted_at: now,
        not_before: None,
    }
}

fn is_alive(vm: &Vm) -> bool {
    vm.machine.exited().now_or_never().is_none()
}
