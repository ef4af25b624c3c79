//! Which bases are current, and which are evicted.

use super::*;
use leapbox_ids::ImageDigest;
use leapbox_vmm::{Shape, Snapshot};

/// An id for a short name, in the same order as the names.
fn id(name: &str) -> BaseId {
    format!("base-{:0<40}", hex::encode(name)).parse().expect("a short name")
}

fn base(name: &str, key: &str, kind: BaseKind, taken_at_ms: u64) -> Arc<Base> {
    let snapshot = Snapshot {
        shape: Shape { vcpus: 1, memory_mib: 512 },
        memory: "memory".into(),
        state: "state".into(),
        disk: "disk".into(),
        compatibility_key: key.to_owned(),
    };
    Arc::new(Base { id: id(name), kind, image: ImageDigest::from([0; 32]), taken_at_ms, snapshot: Arc::new(snapshot) })
}

fn index_with(bases: impl IntoIterator<Item = Arc<Base>>) -> BaseIndex {
    let mut index = BaseIndex::default();
    bases.into_iter().for_each(|base| index.insert(base, true));
    index
}

fn none() -> BTreeSet<ArchiveId> {
    BTreeSet::new()
}

fn referenced(names: &[&str]) -> BTreeSet<ArchiveId> {
    names.iter().map(|name| ArchiveId::Base(id(name))).collect()
}

fn ids(gone: &[Arc<Base>]) -> Vec<BaseId> {
    gone.iter().map(|base| base.id.clone()).collect()
}

#[test]
fn the_newest_of_a_key_and_kind_is_current() {
    let mut index = index_with([
        base("old", "key", BaseKind::Ready, 1),
        base("new", "key", BaseKind::Ready, 2),
        base("bare", "key", BaseKind::Diskless, 3),
        base("other", "another key", BaseKind::Ready, 4),
    ]);
    assert_eq!(index.newest("key", BaseKind::Ready).expect("there").base.id, id("new"));
    assert_eq!(index.newest("key", BaseKind::Diskless).expect("there").base.id, id("bare"));
    assert!(index.newest("a third key", BaseKind::Diskless).is_none());
    assert_eq!(index.by_id(&id("old")).expect("there as well").base.taken_at_ms, 1);
}

#[test]
fn what_is_outdated_or_superseded_goes_unless_it_is_referenced() {
    let make = || {
        index_with([
            base("outdated", "gone", BaseKind::Ready, 9),
            base("superseded", "key", BaseKind::Ready, 1),
            base("current", "key", BaseKind::Ready, 2),
            base("bare", "key", BaseKind::Diskless, 1),
        ])
    };
    let fits = |base: &Base| base.snapshot.compatibility_key == "key";
    assert_eq!(ids(&make().remove_surplus(fits, &none())), ["outdated", "superseded"].map(id));
    let referenced = referenced(&["outdated", "superseded"]);
    assert!(make().remove_surplus(fits, &referenced).is_empty());
}

#[test]
fn what_is_in_somebodys_hands_stays() {
    let mut index = index_with([base("used", "gone", BaseKind::Ready, 1)]);
    let held = index.by_id(&id("used")).expect("there").base;
    assert!(index.remove_surplus(|_| false, &none()).is_empty());
    let snapshot = Arc::clone(&held.snapshot);
    drop(held);
    assert!(index.remove_surplus(|_| false, &none()).is_empty(), "its files are being used");
    drop(snapshot);
    let looking = index.by_id(&id("used")).expect("there").verified;
    assert!(index.remove_surplus(|_| false, &none()).is_empty(), "it is being verified");
    drop(looking);
    assert_eq!(ids(&index.remove_surplus(|_| false, &none())), [id("used")]);
}

#[test]
fn beyond_what_is_kept_the_one_not_asked_for_the_longest_goes() {
    let bases = (0..KEPT_MAX + 3).map(|n| base(&format!("{n:02}"), &format!("key {n}"), BaseKind::Ready, 1));
    let mut index = index_with(bases);
    assert!(index.is_crowded());
    index.by_id(&id("00")).expect("asked for again");
    let referenced = referenced(&["02"]);
    // 01, 02 and 03 were not asked for the longest.
    assert_eq!(ids(&index.remove_surplus(|_| true, &referenced)), ["01", "03"].map(id));
}

#[test]
fn what_is_referenced_and_fits_nothing_costs_no_other_its_place() {
    let stored = (0..KEPT_MAX + 5).map(|n| base(&format!("old-{n:02}"), &format!("old {n}"), BaseKind::Ready, 1));
    let mut index = index_with(stored.chain([base("current", "key", BaseKind::Ready, 1)]));
    let referenced = (0..KEPT_MAX + 5).map(|n| ArchiveId::Base(id(&format!("old-{n:02}")))).collect();
    assert!(index.remove_surplus(|base| base.id == id("current"), &referenced).is_empty());
}

#[test]
fn a_base_is_taken_off_once() {
    let mut index = index_with([base("one", "key", BaseKind::Ready, 1)]);
    let found = index.by_id(&id("one")).expect("there").base;
    assert!(index.remove(&found) && !index.remove(&found));
    index.insert(base("one", "key", BaseKind::Ready, 1), true);
    assert!(!index.remove(&found), "that is another one, put there since");
}
