//! A bucket says whose it is and how new its archives are. A server that is another one's, or has an older database,
//! changes nothing in it.

use super::*;
use serde_json::{Value, json};

fn config(place: &Place, installation: &str, known_sequence: u64) -> StoreConfig {
    let installation = installation.to_owned();
    StoreConfig { installation, known_sequence, ..place.config(Some(place.file_url())) }
}

fn open(place: &Place, installation: &str, known_sequence: u64) -> ArchiveStore {
    ArchiveStore::open(config(place, installation, known_sequence)).expect("opened")
}

fn owner_path(place: &Place) -> PathBuf {
    place.bucket().join("installation.json")
}

fn owner(place: &Place) -> Value {
    serde_json::from_slice(&std::fs::read(owner_path(place)).expect("read")).expect("an object")
}

#[tokio::test]
async fn an_upload_raises_the_number_in_the_bucket_and_nothing_lowers_it() {
    let place = Place::new();
    let archives = open(&place, "ins-1", 0);
    assert_eq!(archives.owner_sequence().await.expect("asked"), None);
    assert!(!owner_path(&place).exists(), "asking writes nothing");
    store(&archives, "base-1");
    archives.settle().await.expect("uploaded");
    assert_eq!(owner(&place), json!({ "key": ServerKey::of(7).fingerprint(), "installation": "ins-1" }));
    for (id, stamp) in [("ckp-1", stamp("ins-1", 5)), ("ckp-2", stamp("ins-1", 3)), ("ckp-3", stamp("ins-2", 99))] {
        store_stamped(&archives, id, stamp);
        archives.settle().await.expect("uploaded");
        assert_eq!(owner(&place)["sequence"], 5, "{id}");
    }
    assert_eq!(archives.owner_sequence().await.expect("asked"), Some(5));
    drop(archives);
    let archives = open(&place, "ins-1", 6);
    store_stamped(&archives, "ckp-4", stamp("ins-1", 6));
    archives.settle().await.expect("uploaded");
    assert_eq!(owner(&place)["sequence"], 6);
}

#[tokio::test]
async fn a_database_that_is_older_than_the_bucket_removes_nothing_here_nor_there() {
    let place = Place::new();
    let archives = open(&place, "ins-1", 0);
    store_stamped(&archives, "ckp-1", stamp("ins-1", 5));
    archives.settle().await.expect("uploaded");
    drop(archives);

    let budget = StoreConfig { cache_bytes: Some(0), ..config(&place, "ins-1", 4) };
    let older = ArchiveStore::open(budget).expect("opened");
    assert_eq!(older.owner_sequence().await.expect("asked"), Some(5), "the caller compares");
    let error = older.sweep().await.keep_only(&BTreeSet::new()).await.expect_err("refused");
    assert!(matches!(error, StoreError::OlderDatabase { database: 4, found: 5, .. }), "{error}");
    assert!(error.to_string().contains("leapbox serve --accept-older-database"), "{error}");
    assert!(matches!(older.settle().await, Err(StoreError::OlderDatabase { .. })), "not evicted either");
    store(&older, "base-2");
    assert!(matches!(older.settle().await, Err(StoreError::OlderDatabase { .. })));
    assert_eq!((names(&place.dir()), names(&place.bucket())), (set(&["base-2", "ckp-1"]), set(&["ckp-1"])));
    drop(older);

    for known in [5, u64::MAX] {
        let newest = open(&place, "ins-1", known);
        newest.sweep().await.keep_only(&set(&["base-2", "ckp-1"])).await.expect("allowed");
        assert_eq!(owner(&place)["sequence"], 5);
    }
}

#[tokio::test]
async fn an_installation_with_the_same_key_and_another_id_is_refused() {
    let place = Place::new();
    let archives = open(&place, "ins-1", 0);
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    drop(archives);
    let theirs = open(&place, "ins-2", 0);
    let asked = theirs.owner_sequence().await.expect_err("not theirs to ask");
    let swept = theirs.sweep().await.keep_only(&BTreeSet::new()).await.expect_err("not theirs to sweep");
    for error in [asked, swept] {
        assert!(
            matches!(&error, StoreError::OtherInstallation { what: "id", found, .. } if found == "ins-1"),
            "{error}"
        );
    }
    assert_eq!((names(&place.dir()), names(&place.bucket())), (set(&["ckp-1"]), set(&["ckp-1"])));
}

#[tokio::test]
async fn an_object_of_an_earlier_version_is_completed_by_the_first_claim() {
    let place = Place::new();
    let archives = open(&place, "ins-1", 0);
    let key = ServerKey::of(7).fingerprint().to_owned();
    let earlier = json!({ "key": key, "of": "another version" });
    std::fs::write(owner_path(&place), earlier.to_string()).expect("written");
    assert_eq!(archives.owner_sequence().await.expect("asked"), None);
    assert_eq!(owner(&place), earlier, "asking writes nothing");
    drop(archives.sweep().await);
    assert_eq!(owner(&place), json!({ "key": key, "installation": "ins-1" }));
}

#[tokio::test]
async fn a_refusal_is_not_kept_when_its_reason_is_gone() {
    let place = Place::new();
    let archives = open(&place, "ins-1", 0);
    std::fs::write(owner_path(&place), b"somebody's notes").expect("written");
    store(&archives, "ckp-1");
    for _ in 0..2 {
        let error = archives.settle().await.expect_err("whatever it is, it is not ours");
        assert!(matches!(error, StoreError::OtherInstallation { what: "installation.json", .. }), "{error}");
    }
    std::fs::remove_file(owner_path(&place)).expect("removed");
    archives.settle().await.expect("uploaded");
    assert_eq!(names(&place.bucket()), set(&["ckp-1"]));
}
