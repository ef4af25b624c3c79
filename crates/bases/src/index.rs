//! The index of bases: which there are, which one is current, and which may be removed. It does no I/O; `store` removes
//! what is decided here.

use crate::base::{Base, BaseKind};
use leapbox_ids::{ArchiveId, BaseId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OnceCell;

/// Bases that are kept although no row refers to them. Each costs some hundred MiB of disk, and under QEMU of memory,
/// and clients can ask for some thirty thousand shapes (8 numbers of vCPUs times 3841 memory sizes).
pub(crate) const KEPT_MAX: usize = 16;

/// A base, and whether all of its data has been verified since the server started.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub base: Arc<Base>,
    pub verified: Arc<OnceCell<()>>,
}

#[derive(Debug)]
struct Entry {
    found: Found,
    /// When it was last asked for. Beyond [`KEPT_MAX`] the least recently used bases are evicted.
    last_used: Instant,
}

/// The bases by id.
#[derive(Debug, Default)]
pub(crate) struct BaseIndex {
    entries: BTreeMap<BaseId, Entry>,
}

impl BaseIndex {
    /// Adds a base. `verified` says whether its data was read and is sound.
    pub fn insert(&mut self, base: Arc<Base>, verified: bool) {
        let verified = Arc::new(OnceCell::new_with(verified.then_some(())));
        let id = base.id.clone();
        self.entries.insert(id, Entry { found: Found { base, verified }, last_used: Instant::now() });
    }

    /// The base of this id. Counts as a use.
    pub fn by_id(&mut self, id: &BaseId) -> Option<Found> {
        let entry = self.entries.get_mut(id)?;
        entry.last_used = Instant::now();
        Some(entry.found.clone())
    }

    /// The newest base of this compatibility key and kind. Counts as a use.
    pub fn newest(&mut self, key: &str, kind: BaseKind) -> Option<Found> {
        let fitting = self.entries.values().map(|entry| &*entry.found.base).filter(|base| is_of(base, key, kind));
        let id = fitting.max_by_key(|base| (base.taken_at_ms, &base.id)).map(|base| base.id.clone())?;
        self.by_id(&id)
    }

    /// Removes this base; false if another task has removed it.
    pub fn remove(&mut self, base: &Arc<Base>) -> bool {
        // By pointer and not by id: the same base may have been imported again meanwhile, and that one is sound.
        let is_it = self.entries.get(&base.id).is_some_and(|entry| Arc::ptr_eq(&entry.found.base, base));
        is_it && self.entries.remove(&base.id).is_some()
    }

    /// Whether there are more bases than are kept without a reference.
    pub fn is_crowded(&self) -> bool {
        self.entries.len() > KEPT_MAX
    }

    /// Removes and returns the bases that nobody needs: those that do not fit what is in use, those that a newer one of
    /// their key and kind supersedes, and of the rest the least recently used ones beyond [`KEPT_MAX`]. A base that is
    /// referenced or in use is never removed.
    pub fn remove_surplus(&mut self, fits: impl Fn(&Base) -> bool, referenced: &BTreeSet<ArchiveId>) -> Vec<Arc<Base>> {
        let (current, mut gone) = self.ids_by(|base| fits(base) && self.is_newest(base));
        let mut by_use = current.clone();
        by_use.sort_by_key(|id| self.entries.get(id).map(|entry| entry.last_used));
        gone.extend(by_use.into_iter().take(current.len().saturating_sub(KEPT_MAX)));
        // Last: a referenced base among the surplus stays, and no other one has to go in its place.
        gone.retain(|id| !referenced.contains(&id.into()) && self.entries.get(id).is_some_and(Entry::is_idle));
        gone.iter().filter_map(|id| self.entries.remove(id)).map(|entry| entry.found.base).collect()
    }

    fn ids_by(&self, chosen: impl Fn(&Base) -> bool) -> (Vec<BaseId>, Vec<BaseId>) {
        let ids = self.entries.keys().cloned();
        ids.partition(|id| self.entries.get(id).is_some_and(|entry| chosen(&entry.found.base)))
    }

    fn is_newest(&self, base: &Base) -> bool {
        let others = self.entries.values().map(|entry| &*entry.found.base);
        let same = others.filter(|other| is_of(other, &base.snapshot.compatibility_key, base.kind));
        same.max_by_key(|other| (other.taken_at_ms, &other.id)).is_some_and(|newest| newest.id == base.id)
    }
}

impl Entry {
    /// Whether nobody uses the base or is verifying it now.
    fn is_idle(&self) -> bool {
        // Machines hold the base or its snapshot, and a verification holds the cell. Whoever wants one of them gets it
        // from the index, under its lock, so a count of 1 cannot grow meanwhile.
        let Found { base, verified } = &self.found;
        Arc::strong_count(base) == 1 && Arc::strong_count(&base.snapshot) == 1 && Arc::strong_count(verified) == 1
    }
}

fn is_of(base: &Base, key: &str, kind: BaseKind) -> bool {
    base.kind == kind && base.snapshot.compatibility_key == key
}

#[cfg(test)]
mod tests;
