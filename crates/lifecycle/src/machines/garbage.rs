//! Removes archives and bases that no row names, in two steps: what a sweep finds unnamed is first only noted in the
//! database as *set aside*, and removed when the server has run for the days of the grace since.
//!
//! ```text
//! sweep lists archives ─► less those that rows name ─┬─ many at once, and never seen before ─► held back: waits for a word
//!                                                    └─► set aside ── grace, full disk, or the operator's word ──► removed
//! ```
//!
//! Nothing is moved or marked in the directory or the bucket: an archive that is set aside is a row of the table
//! `set_aside`, and as usable as before. If a row names it again (a database was put back), it is no longer set aside.
//! If the database is exchanged, the table is another one, and every wait begins anew.
//!
//! What its owner deletes does not come here: it is removed at once.

use super::host::Host;
use super::{Machines, checkpoint};
use leapbox_db::{Db, DbError, SetAside, SetAsideKind, SweepWord};
use leapbox_errors::chain;
use leapbox_ids::ArchiveId;
use leapbox_storage::{FoundArchive, free_mib};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A sweep sets at most this share of all archives aside at once, and always so many: crashes leave single ones, a
/// wrong database leaves most.
const LARGE_SHARE: usize = 5;
const FEW: usize = 20;
/// Free disk below which what is set aside is removed before its time, in MiB: twice the reserve, below which pauses
/// and creates are refused.
const DISK_SHORT_MIB: u64 = 2 * super::capacity::DISK_RESERVE_MIB;

/// The collector's memory between two sweeps.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// When the last sweep was, by the monotonic clock: neither a clock that is set nor the time in which no server ran
    /// counts as waiting.
    last: parking_lot::Mutex<Option<Instant>>,
}

impl Collector {
    /// The time since the last sweep of this server.
    fn waited(&self) -> Duration {
        let now = Instant::now();
        let last = self.last.lock().replace(now);
        last.map_or(Duration::ZERO, |last| now - last)
    }
}

/// What is done with the archives that no row names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// The table's rows from now on.
    set_aside: Vec<SetAside>,
    /// Archives that were found unnamed and are not set aside, because they are too many at once.
    held_back: usize,
}

impl Host {
    /// Collects once; see the module.
    pub(super) async fn collect(&self, db: &Db) -> Result<(), DbError> {
        // First what there is, then what is named. In the other order, an archive that was stored and named after the
        // question would be taken for garbage.
        let sweep = self.store_context.archives.sweep().await;
        let found = sweep.found();
        let named: BTreeSet<String> = db.archives_referenced().await?.iter().map(ToString::to_string).collect();
        let before = db.set_aside_list().await?;
        let word = db.sweep_word().await?;
        let plan = plan(&found, &named, &before, word.allowed, self.collector.waited());
        let expired = self.expired(&plan, &word);
        // Written before anything is removed: what is removed was set aside in the database, however this ends.
        store(db, &plan, &before).await?;
        let unnamed: BTreeSet<String> =
            found.into_iter().map(|archive| archive.id).filter(|id| !named.contains(id)).collect();
        let mut keep: BTreeSet<String> = named.union(&unnamed).cloned().collect();
        keep.retain(|id| !expired.contains(id));
        let references = self.references(&keep, &unnamed).await;
        self.launcher.bases.evict(&self.catalog.images(), &references).await;
        match sweep.keep_only(&keep).await {
            Ok(swept) => {
                tracing::debug!(?swept, "garbage was collected");
                db.set_aside_remove(&expired).await?;
            }
            Err(error) => tracing::warn!(error = %chain(&error), "not all garbage could be collected"),
        }
        self.remove_machines(db, &before, &word).await?;
        // What the operator has said during the sweep is for the next one.
        let now = db.sweep_word().await?;
        let (allowed, remove_now) = (now.allowed && !word.allowed, now.remove_now && !word.remove_now);
        db.sweep_word_update(&SweepWord { held_back: plan.held_back as u64, allowed, remove_now }).await?;
        self.store_context.exports.want(references);
        Ok(())
    }

    /// The names of what is set aside and goes now: its grace is over, the operator wants it gone, or the disk is short.
    fn expired(&self, plan: &Plan, word: &SweepWord) -> Vec<String> {
        let grace_s = self.garbage_grace.as_secs();
        let is_over = |one: &&SetAside| one.waited_s >= grace_s || word.remove_now;
        let mut expired: BTreeSet<String> = plan.set_aside.iter().filter(is_over).map(|one| one.name.clone()).collect();
        let free = free_mib(self.launcher.dirs()[1]).unwrap_or(u64::MAX);
        let mut missing = DISK_SHORT_MIB.saturating_sub(free) << 20;
        // Those first that have waited longest.
        let mut oldest: Vec<&SetAside> = plan.set_aside.iter().collect();
        oldest.sort_by_key(|one| std::cmp::Reverse(one.waited_s));
        for one in oldest.into_iter().filter(|one| one.bytes > 0) {
            if missing == 0 {
                break;
            }
            tracing::warn!(
                event = "removed_early",
                archive = one.name,
                bytes = one.bytes,
                "the disk is short: an archive that is set aside is removed before its time"
            );
            missing = missing.saturating_sub(one.bytes);
            expired.insert(one.name.clone());
        }
        expired.into_iter().collect()
    }

    /// The archives that stay, with the bases and images that unnamed checkpoints among them need: without these, a
    /// database that is put back would find checkpoints that cannot be restored.
    async fn references(&self, keep: &BTreeSet<String>, unnamed: &BTreeSet<String>) -> BTreeSet<ArchiveId> {
        let mut references: BTreeSet<ArchiveId> = keep.iter().filter_map(|name| name.parse().ok()).collect();
        for name in unnamed.intersection(keep) {
            references.extend(self.needed_by(name).await);
        }
        references
    }

    /// The base and image of a checkpoint that is set aside; nothing if it is no checkpoint, or not in the directory.
    async fn needed_by(&self, name: &str) -> Vec<ArchiveId> {
        let Ok(id @ ArchiveId::Checkpoint(_)) = name.parse() else { return Vec::new() };
        match self.store_context.archives.local(&id).await {
            Ok(Some(archive)) => checkpoint::needs(&archive),
            Ok(None) => Vec::new(),
            Err(error) => {
                tracing::warn!(archive = name, error = %chain(&error), "an archive that is set aside cannot be read");
                Vec::new()
            }
        }
    }

    /// Counts the wait of machines that are set aside, and removes those whose grace is over.
    async fn remove_machines(&self, db: &Db, before: &[SetAside], word: &SweepWord) -> Result<(), DbError> {
        let grace_s = self.garbage_grace.as_secs();
        for machine in before.iter().filter(|one| one.kind == SetAsideKind::Machine) {
            if machine.waited_s < grace_s && !word.remove_now {
                continue;
            }
            match self.remove(&machine.name).await {
                Ok(()) => db.set_aside_remove(std::slice::from_ref(&machine.name)).await?,
                Err(error) => {
                    tracing::warn!(machine = machine.name, error = %chain(&error), "a machine could not be removed");
                }
            }
        }
        Ok(())
    }
}

/// Decides what is set aside. Pure.
fn plan(
    found: &[FoundArchive],
    named: &BTreeSet<String>,
    before: &[SetAside],
    allowed: bool,
    waited: Duration,
) -> Plan {
    let known: BTreeMap<&str, &SetAside> = before.iter().map(|one| (one.name.as_str(), one)).collect();
    let unnamed: Vec<_> = found.iter().filter(|archive| !named.contains(&archive.id)).collect();
    let new = unnamed.iter().filter(|archive| !known.contains_key(archive.id.as_str())).count();
    let too_many = new > FEW && new * LARGE_SHARE > found.len() && !allowed;
    let waited_s = waited.as_secs();
    let archives = unnamed.iter().filter_map(|archive| {
        let before = known.get(archive.id.as_str());
        if before.is_none() && too_many {
            return None;
        }
        let waited_s = before.map_or(0, |before| before.waited_s + waited_s);
        Some(SetAside { name: archive.id.clone(), kind: SetAsideKind::Archive, bytes: archive.bytes, waited_s })
    });
    let machines = before.iter().filter(|one| one.kind == SetAsideKind::Machine);
    let machines = machines.map(|one| SetAside { waited_s: one.waited_s + waited_s, ..one.clone() });
    Plan { set_aside: archives.chain(machines).collect(), held_back: if too_many { new } else { 0 } }
}

/// Writes the table as planned, and says what is new in it.
async fn store(db: &Db, plan: &Plan, before: &[SetAside]) -> Result<(), DbError> {
    let now: BTreeSet<&str> = plan.set_aside.iter().map(|one| one.name.as_str()).collect();
    let gone: Vec<String> =
        before.iter().filter(|one| !now.contains(one.name.as_str())).map(|one| one.name.clone()).collect();
    db.set_aside_remove(&gone).await?;
    db.set_aside_put(&plan.set_aside).await?;
    let new = plan.set_aside.iter().filter(|one| before.iter().all(|other| other.name != one.name)).count();
    if new > 0 {
        tracing::info!(event = "set_aside", archives = new, "archives that nothing names were set aside");
    }
    if plan.held_back > 0 {
        tracing::error!(
            event = "sweep_held_back",
            archives = plan.held_back,
            "a large share of all archives has no row that names it: nothing is set aside. If the database is the right \
             one, `leapbox gc --allow` lets it happen"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(count: usize) -> Vec<FoundArchive> {
        (0..count).map(|n| FoundArchive { id: format!("ckp-{n}"), bytes: 10 }).collect()
    }

    fn named(numbers: std::ops::Range<usize>) -> BTreeSet<String> {
        numbers.map(|n| format!("ckp-{n}")).collect()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_nothing_names_waits_and_its_wait_adds_up() {
        let first = plan(&found(10), &named(0..9), &[], false, HOUR);
        assert_eq!(first.set_aside.len(), 1);
        assert_eq!((first.set_aside[0].name.as_str(), first.set_aside[0].waited_s), ("ckp-9", 0));
        let second = plan(&found(10), &named(0..9), &first.set_aside, false, HOUR);
        assert_eq!(second.set_aside[0].waited_s, 3600);
    }

    #[test]
    fn what_is_named_again_is_no_longer_set_aside() {
        let first = plan(&found(10), &named(0..9), &[], false, HOUR);
        assert_eq!(plan(&found(10), &named(0..10), &first.set_aside, false, HOUR), Plan::default());
    }

    #[test]
    fn a_large_share_at_once_is_held_back_until_it_is_allowed() {
        let held = plan(&found(100), &named(0..50), &[], false, HOUR);
        assert_eq!((held.set_aside.len(), held.held_back), (0, 50));
        let allowed = plan(&found(100), &named(0..50), &[], true, HOUR);
        assert_eq!((allowed.set_aside.len(), allowed.held_back), (50, 0));
        // Those are known from then on, and hold nothing back.
        let later = plan(&found(100), &named(0..50), &allowed.set_aside, false, HOUR);
        assert_eq!((later.set_aside.len(), later.held_back), (50, 0));
    }

    #[test]
    fn a_few_are_never_a_large_share() {
        let few = plan(&found(20), &named(0..0), &[], false, HOUR);
        assert_eq!((few.set_aside.len(), few.held_back), (20, 0));
    }
}
