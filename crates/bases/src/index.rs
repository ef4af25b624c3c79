//! Which bases there are, and which of them may be removed. No I/O: `store` carries out what is decided here.

use crate::base::{Base, BaseKind};
use leapbox_ids::{ArchiveId, BaseId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OnceCell;

/// Bases that fit what is in use and are kept without being referenced. Each costs disk, and memory while the server
/// lives, and a tenant may ask for some thirty thousand shapes.
pub(crate) const KEPT_MAX: usize = 16;

/// A base, and whether all of its data has been looked at in this server's life.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub base: Arc<Base>,
    pub verified: Arc<OnceCell<()>>,
}

#[derive(Debug)]
struct Entry {
    found: Found,
    /// When it was last asked for: beyond [`KEPT_MAX`], the base that was not asked for the longest goes first.
    asked: Instant,
}

/// All bases, by id.
#[derive(Debug, Default)]
pub(crate) struct BaseIndex {
    entries: BTreeMap<BaseId, Entry>,
}

impl BaseIndex {
    /// Adds a base; `verified` says whether its data is known to be sound.
    pub fn insert(&mut self, base: Arc<Base>, verified: bool) {
        let verified = Arc::new(OnceCell::new_with(verified.then_some(())));
        let id = base.id.clone();
        self.entries.insert(id, Entry { found: Found { base, verified }, asked: Instant::now() });
    }

    /// The base of this id.
    pub fn by_id(&mut self, id: &BaseId) -> Option<Found> {
        let entry = self.entries.get_mut(id)?;
        entry.asked = Instant::now();
        Some(entry.found.clone())
    }

    /// The newest base of this compatibility key and kind.
    pub fn newest(&mut self, key: &str, kind: BaseKind) -> Option<Found> {
        let fitting = self.entries.values().map(|entry| &*entry.found.base).filter(|base| is_of(base, key, kind));
        let id = fitting.max_by_key(|base| (base.taken_at_ms, &base.id)).map(|base| base.id.clone())?;
        self.by_id(&id)
    }

    /// Removes this very base; false if somebody has done that already.
    pub fn remove(&mut self, base: &Arc<Base>) -> bool {
        let is_it = self.entries.get(&base.id).is_some_and(|entry| Arc::ptr_eq(&entry.found.base, base));
        is_it && self.entries.remove(&base.id).is_some()
    }

    /// More than is kept without being referenced.
    pub fn is_crowded(&self) -> bool {
        self.entries.len() > KEPT_MAX
    }

    /// Removes what nobody needs: what `fits` nothing in use, what has a newer one of its kind beside it, and of the
    /// rest what was not asked for the longest, beyond [`KEPT_MAX`]. Never what is referenced or in use.
    pub fn remove_surplus(&mut self, fits: impl Fn(&Base) -> bool, referenced: &BTreeSet<ArchiveId>) -> Vec<Arc<Base>> {
        let (current, mut gone) = self.ids_by(|base| fits(base) && self.is_newest(base));
        let mut by_use = current.clone();
        by_use.sort_by_key(|id| self.entries.get(id).map(|entry| entry.asked));
        gone.extend(by_use.into_iter().take(current.len().saturating_sub(KEPT_MAX)));
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
    /// Nobody uses it, and nobody is verifying it now.
    fn is_idle(&self) -> bool {
        let Found { base, verified } = &self.found;
        Arc::strong_count(base) == 1 && Arc::strong_count(&base.snapshot) == 1 && Arc::strong_count(verified) == 1
    }
}

fn is_of(base: &Base, key: &str, kind: BaseKind) -> bool {
    base.kind == kind && base.snapshot.compatibility_key == key
}

#[cfg(test)]
mod tests;
