//! A survey says what a directory of archives has, and believes no manifest that is not authentic.

use super::*;

fn own(place: &Place) -> Survey {
    survey(&place.dir(), Some(&ServerKey::of(7)), Some("ins-1")).expect("surveyed")
}

fn manifest(place: &Place, id: &str) -> PathBuf {
    place.dir().join(archive_name(id)).join(MANIFEST)
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).expect("read");
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).expect("written");
}

#[test]
fn the_newest_stamp_is_the_own_installations_and_other_installations_are_named() {
    let place = Place::new();
    assert_eq!(own(&place), Survey::default(), "a missing directory is empty");
    let archives = place.alone();
    store(&archives, "base-1");
    assert_eq!(own(&place), Survey { archives: 1, ..Survey::default() }, "a base has no stamp");
    for (id, stamp) in [("ckp-1", stamp("ins-1", 2)), ("ckp-2", stamp("ins-1", 9)), ("ckp-3", stamp("ins-1", 4))] {
        store_stamped(&archives, id, stamp);
    }
    store_stamped(&archives, "ckp-4", stamp("ins-2", 70));
    std::fs::create_dir(place.dir().join(".ckp-5")).expect("one that is being written");
    std::fs::write(place.dir().join("notes"), b"somebody's").expect("written");

    let found = own(&place);
    assert_eq!((found.archives, found.checkpoints, found.unreadable), (5, 4, 0));
    assert_eq!(found.newest, Some(stamp("ins-1", 9)));
    assert_eq!(found.other_installations, BTreeSet::from(["ins-2".to_owned()]));
    assert_eq!(found.other_keys, BTreeSet::new());

    let unknown = survey(&place.dir(), Some(&ServerKey::of(7)), None).expect("surveyed");
    assert_eq!(unknown.newest, Some(stamp("ins-2", 70)));
    assert_eq!(unknown.other_installations, BTreeSet::from(["ins-1".to_owned(), "ins-2".to_owned()]));
}

#[test]
fn a_manifest_that_is_damaged_or_missing_is_counted_and_its_stamp_is_not_believed() {
    let place = Place::new();
    let archives = place.alone();
    for (id, sequence) in [("ckp-1", 3), ("ckp-2", 4), ("ckp-3", 5)] {
        store_stamped(&archives, id, stamp("ins-1", sequence));
    }
    replace(&manifest(&place, "ckp-2"), r#""sequence":4"#, r#""sequence":9000"#);
    std::fs::remove_file(manifest(&place, "ckp-3")).expect("removed");
    std::fs::create_dir(place.dir().join("planted")).expect("made");
    let found = own(&place);
    assert_eq!((found.archives, found.checkpoints, found.unreadable), (4, 3, 3));
    assert_eq!(found.newest, Some(stamp("ins-1", 3)));
}

#[test]
fn without_the_right_key_only_the_fingerprints_of_the_others_are_told() {
    let place = Place::new();
    let archives = place.alone();
    store_stamped(&archives, "ckp-1", stamp("ins-1", 3));
    let (fingerprint, other) = (ServerKey::of(7).fingerprint().to_owned(), ServerKey::of(8));
    let of_seven = BTreeSet::from([fingerprint.clone()]);
    let expected = Survey { archives: 1, checkpoints: 1, other_keys: of_seven, ..Survey::default() };
    for key in [Some(&other), None] {
        assert_eq!(survey(&place.dir(), key, Some("ins-1")).expect("surveyed"), expected);
    }
    replace(&manifest(&place, "ckp-1"), &fingerprint, &"f".repeat(1000));
    let expected = Survey { archives: 1, checkpoints: 1, unreadable: 1, ..Survey::default() };
    for key in [Some(&other), None] {
        assert_eq!(survey(&place.dir(), key, Some("ins-1")).expect("surveyed"), expected, "no fingerprint is so long");
    }
}
