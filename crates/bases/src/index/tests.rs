//! What goes and what stays.

use super::*;
use leapbox_vmm::{Shape, Snapshot};

fn base(id: &str, key: &str, kind: BaseKind, taken_at_ms: u64) -> Arc<Base> {
    let snapshot = Snapshot {
        shape: Shape { vcpus: 1, memory_mib: 512 },
        memory: "memory".into(),
        state: "state".into(),
        disk: "disk".into(),
        compatibility_key: key.to_owned(),
    };
    Arc::new(Base { id: id.to_owned(), kind, image: "image".to_owned(), taken_at_ms, snapshot: Arc::new(snapshot) })
}

fn index_with(bases: impl IntoIterator<Item = Arc<Base>>) -> BaseIndex {
    let mut index = BaseIndex::default();
    bases.into_iter().for_each(|base| index.insert(base, true));
    index
}

fn none() -> BTreeSet<String> {
    BTreeSet::new()
}

fn ids(gone: &[Arc<Base>]) -> Vec<&str> {
    gone.iter().map(|base| &*base.id).collect()
}

#[test]
fn the_newest_of_a_key_and_kind_is_current() {
    let mut index = index_with([
        base("old", "key", BaseKind::Ready, 1),
        base("new", "key", BaseKind::Ready, 2),
        base("bare", "key", BaseKind::Bare, 3),
        base("other", "another key", BaseKind::Ready, 4),
    ]);
    assert_eq!(index.newest("key", BaseKind::Ready).expect("there").base.id, "new");
    assert_eq!(index.newest("key", BaseKind::Bare).expect("there").base.id, "bare");
    assert!(index.newest("a third key", BaseKind::Bare).is_none());
    assert_eq!(index.by_id("old").expect("there as well").base.taken_at_ms, 1);
}

#[test]
fn what_is_outdated_or_superseded_goes_unless_it_is_referenced() {
    let make = || {
        index_with([
            base("outdated", "gone", BaseKind::Ready, 9),
            base("superseded", "key", BaseKind::Ready, 1),
            base("current", "key", BaseKind::Ready, 2),
            base("bare", "key", BaseKind::Bare, 1),
        ])
    };
    let fits = |base: &Base| base.snapshot.compatibility_key == "key";
    assert_eq!(ids(&make().remove_surplus(fits, &none())), ["outdated", "superseded"]);
    let referenced = BTreeSet::from(["outdated".to_owned(), "superseded".to_owned()]);
    assert!(make().remove_surplus(fits, &referenced).is_empty());
}

#[test]
fn what_is_in_somebodys_hands_stays() {
    let mut index = index_with([base("used", "gone", BaseKind::Ready, 1)]);
    let held = index.by_id("used").expect("there").base;
    assert!(index.remove_surplus(|_| false, &none()).is_empty());
    let snapshot = Arc::clone(&held.snapshot);
    drop(held);
    assert!(index.remove_surplus(|_| false, &none()).is_empty(), "its files are being used");
    drop(snapshot);
    let looking = index.by_id("used").expect("there").verified;
    assert!(index.remove_surplus(|_| false, &none()).is_empty(), "it is being verified");
    drop(looking);
    assert_eq!(ids(&index.remove_surplus(|_| false, &none())), ["used"]);
}

#[test]
fn beyond_what_is_kept_the_one_not_asked_for_the_longest_goes() {
    let bases = (0..KEPT_MAX + 3).map(|n| base(&format!("{n:02}"), &format!("key {n}"), BaseKind::Ready, 1));
    let mut index = index_with(bases);
    assert!(index.is_crowded());
    index.by_id("00").expect("asked for again");
    let referenced = BTreeSet::from(["02".to_owned()]);
    // 01, 02 and 03 were not asked for the longest.
    assert_eq!(ids(&index.remove_surplus(|_| true, &referenced)), ["01", "03"]);
}

#[test]
fn what_is_referenced_and_fits_nothing_costs_no_other_its_place() {
    let stored = (0..KEPT_MAX + 5).map(|n| base(&format!("old-{n:02}"), &format!("old {n}"), BaseKind::Ready, 1));
    let mut index = index_with(stored.chain([base("current", "key", BaseKind::Ready, 1)]));
    let referenced = (0..KEPT_MAX + 5).map(|n| format!("old-{n:02}")).collect();
    assert!(index.remove_surplus(|base| base.id == "current", &referenced).is_empty());
}

#[test]
fn a_base_is_taken_off_once() {
    let mut index = index_with([base("one", "key", BaseKind::Ready, 1)]);
    let found = index.by_id("one").expect("there").base;
    assert!(index.remove(&found) && !index.remove(&found));
    index.insert(base("one", "key", BaseKind::Ready, 1), true);
    assert!(!index.remove(&found), "that is another one, put there since");
}
