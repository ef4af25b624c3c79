//! With a bucket: what was uploaded survives the loss of the folder, and nothing that is wrong in it is used.

use super::*;

#[tokio::test]
async fn with_every_local_copy_gone_archives_come_back_from_the_bucket() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    store(&archives, "base-2");
    archives.settle().await.expect("uploaded");
    let usage = archives.usage();
    assert_eq!((usage.uploaded, usage.pending, usage.bytes), (2, 0, usage.uploaded_bytes));
    drop(archives);
    std::fs::remove_dir_all(place.dir()).expect("lost");
    let archives = place.with_bucket();
    check(&archives, "ckp-1").await;
    check(&archives, "base-2").await;
    assert_eq!(archives.usage(), usage, "kept, and known to be uploaded");
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-1"))).expect("lost while the server runs");
    check(&archives, "ckp-1").await;
}

#[tokio::test]
async fn what_is_pinned_is_not_uploaded_and_what_is_released_is() {
    let place = Place::new();
    let archives = place.with_bucket();
    let sealed = write(&archives, "ckp-1");
    archives.settle().await.expect("nothing to do");
    assert_eq!(names(&place.bucket()), set(&[]));
    drop(sealed);
    archives.settle().await.expect("uploaded");
    assert_eq!(names(&place.bucket().join(archive_name("ckp-1"))), set(&["memory", "state", MANIFEST]));
}

#[tokio::test]
async fn uploads_go_on_after_a_restart_and_start_anew_for_another_bucket() {
    let place = Place::new();
    store(&place.alone(), "ckp-1");
    let archives = place.with_bucket();
    assert_eq!(archives.usage().pending, 1);
    archives.settle().await.expect("uploaded");
    drop(archives);
    assert_eq!(place.with_bucket().usage().uploaded, 1);
    let other = RemoteConfig::new(&format!("file://{}/other", place.root.path().display()), []).expect("a folder");
    let archives = ArchiveStore::open(place.config(Some(other))).expect("opened");
    assert_eq!(archives.usage().pending, 1, "the other one does not have it");
}

#[tokio::test]
async fn the_folder_stays_within_its_bound_and_what_was_evicted_is_fetched_again() {
    let place = Place::new();
    let archives = place.with_cache(700_000);
    for id in ["ckp-1", "ckp-2", "ckp-3"] {
        store(&archives, id);
    }
    assert_eq!(archives.usage().archives, 3, "nothing goes that the bucket does not have");
    check(&archives, "ckp-1").await;
    archives.settle().await.expect("uploaded");
    assert_eq!(names(&place.dir()), set(&["ckp-1", "ckp-3"]), "the longest unused went");
    check(&archives, "ckp-2").await;
    archives.settle().await.expect("evicted");
    assert_eq!(names(&place.dir()), set(&["ckp-1", "ckp-2"]), "check wrote nothing, and used 1 before 2 and after 3");
    assert_eq!(names(&place.bucket()), set(&["ckp-1", "ckp-2", "ckp-3"]));
}

#[tokio::test]
async fn an_upload_that_always_fails_does_not_keep_the_folder_above_its_bound() {
    let place = Place::new();
    let archives = place.with_cache(0);
    store(&archives, "ckp-1");
    store(&archives, "ckp-2");
    std::fs::write(place.bucket().join(archive_name("ckp-2")), b"a file where a folder should be").expect("written");
    assert!(matches!(archives.settle().await, Err(StoreError::Remote { .. } | StoreError::File(_))));
    assert_eq!(names(&place.dir()), set(&["ckp-2"]), "only what the bucket has went");
    assert!(archives.local(&archive_id("ckp-1")).await.expect("asked").is_none(), "that fetches nothing");
    assert!(archives.local(&archive_id("ckp-2")).await.expect("asked").is_some());
    check(&archives, "ckp-1").await;
}

#[tokio::test]
async fn nothing_is_evicted_while_it_is_pinned() {
    let place = Place::new();
    let archives = place.with_cache(0);
    store(&archives, "ckp-1");
    let pin = archives.hold(&archive_id("ckp-1")).await.expect("asked").expect("there");
    archives.settle().await.expect("nothing may be done");
    assert_eq!(names(&place.dir()), set(&["ckp-1"]));
    drop(pin);
    archives.settle().await.expect("done");
    assert_eq!(names(&place.dir()), set(&[]));
    assert!(archives.hold(&archive_id("ckp-1")).await.expect("asked").is_some(), "the bucket has it");
    assert!(archives.hold(&archive_id("ckp-2")).await.expect("asked").is_none());
}

#[tokio::test]
async fn a_half_uploaded_archive_is_not_there() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    std::fs::remove_file(place.bucket().join(archive_name("ckp-1")).join(MANIFEST)).expect("removed");
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-1"))).expect("lost");
    assert!(matches!(archives.get(&archive_id("ckp-1")).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn damage_in_the_bucket_is_refused_by_name_and_leaves_nothing_here() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-1"))).expect("lost");
    for name in ["memory", "state", MANIFEST] {
        let path = place.bucket().join(archive_name("ckp-1")).join(name);
        let sound = std::fs::read(&path).expect("read");
        let mut flipped = sound.clone();
        flipped[sound.len() / 2] ^= 4;
        for damaged in [&flipped, &sound[..sound.len() - 1], &[&sound, b" ".as_slice()].concat()] {
            std::fs::write(&path, damaged).expect("written");
            let error = archives.get(&archive_id("ckp-1")).await.expect_err("refused");
            let StoreError::Fetch { source, .. } = &error else { panic!("{error}") };
            assert!(matches!(**source, StoreError::Archive(_) | StoreError::RemoteLength { .. }), "{name}: {source:?}");
            assert_eq!(names(&place.dir()), set(&[]), "{name}");
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(archives.get(&archive_id("ckp-1")).await.is_err(), "{name} is missing");
        std::fs::write(&path, sound).expect("written");
    }
    check(&archives, "ckp-1").await;
}

#[tokio::test]
async fn a_copy_that_is_damaged_here_is_replaced_by_the_buckets() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    let manifest = place.dir().join(archive_name("ckp-1")).join(MANIFEST);
    let sound = std::fs::read(&manifest).expect("read");
    std::fs::write(&manifest, b"{}").expect("damaged");
    assert!(
        matches!(archives.get(&archive_id("ckp-1")).await, Err(StoreError::Archive(_))),
        "there is no other copy yet"
    );
    std::fs::write(&manifest, sound).expect("repaired");
    archives.settle().await.expect("uploaded");
    std::fs::write(&manifest, b"{}").expect("damaged");
    check(&archives, "ckp-1").await;
}

#[tokio::test]
async fn a_bucket_that_fails_loses_nothing_and_one_bad_archive_does_not_hold_up_the_others() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    store(&archives, "ckp-2");
    std::fs::write(place.bucket().join(archive_name("ckp-1")), b"a file where a folder should be").expect("written");
    for _ in 0..2 {
        assert!(matches!(archives.settle().await, Err(StoreError::Remote { .. } | StoreError::File(_))));
    }
    assert_eq!(names(&place.dir()), set(&["ckp-1", "ckp-2"]));
    assert_eq!((archives.usage().uploaded, archives.usage().pending), (1, 1), "the second one went");
    check(&archives, "ckp-1").await;
    std::fs::remove_file(place.bucket().join(archive_name("ckp-1"))).expect("repaired");
    archives.settle().await.expect("uploaded");
    assert_eq!(archives.usage().pending, 0);
}

#[tokio::test]
async fn what_cannot_be_removed_from_the_bucket_does_not_hold_up_uploads() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    let manifest = place.bucket().join(archive_name("ckp-1")).join(MANIFEST);
    std::fs::remove_file(&manifest).expect("removed");
    std::fs::create_dir(&manifest).expect("a folder where a file should be");
    archives.remove(&archive_id("ckp-1")).await.expect("removed here");
    store(&archives, "ckp-2");
    assert!(matches!(archives.settle().await, Err(StoreError::Remote { step: "removing", .. })));
    assert_eq!(archives.usage().uploaded, 1);
    std::fs::remove_dir(&manifest).expect("repaired");
    archives.settle().await.expect("removed");
    assert_eq!(names(&place.bucket()), set(&["ckp-2"]));
}

#[tokio::test]
async fn a_removal_reaches_the_bucket_if_anything_may_be_there() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    store(&archives, "ckp-2");
    archives.settle().await.expect("uploaded");
    drop(archives);
    let archives = place.with_bucket();
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-2"))).expect("lost here");
    archives.remove(&archive_id("ckp-1")).await.expect("removed");
    archives.remove(&archive_id("ckp-2")).await.expect("removed");
    assert!(
        matches!(archives.get(&archive_id("ckp-1")).await, Err(StoreError::NotFound { .. })),
        "not even before it is gone there"
    );
    assert!(archives.hold(&archive_id("ckp-2")).await.expect("asked").is_none());
    archives.settle().await.expect("removed there");
    assert_eq!(names(&place.bucket()), set(&[]));
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded again");
    check(&archives, "ckp-1").await;
    assert_eq!(names(&place.bucket()), set(&["ckp-1"]));
}

#[tokio::test]
async fn a_prefix_of_another_installation_is_not_touched() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    let (other, bucket) = (Place::new(), place.file_url());
    let config = StoreConfig { key: ServerKey::of(8), ..other.config(Some(bucket)) };
    let theirs = ArchiveStore::open(config).expect("opened");
    let error = theirs.sweep().await.keep_only(&BTreeSet::new()).await.expect_err("not theirs to sweep");
    let fingerprint = ServerKey::of(7).fingerprint().to_owned();
    assert!(
        matches!(&error, StoreError::OtherInstallation { what: "key", found, .. } if *found == fingerprint),
        "{error}"
    );
    let mut writer = theirs.begin(&archive_id("ckp-9"), None).expect("begun");
    writer.bytes("state", b"theirs").expect("written");
    writer.seal(&()).expect("sealed").pin.release();
    assert!(matches!(theirs.settle().await, Err(StoreError::OtherInstallation { .. })));
    theirs.remove(&archive_id("ckp-1")).await.expect("not here");
    assert!(matches!(theirs.settle().await, Err(StoreError::OtherInstallation { .. })));
    let error = theirs.get(&archive_id("ckp-1")).await.expect_err("removed, or of another key");
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    assert_eq!(names(&place.bucket()), set(&["ckp-1"]));
    assert_eq!(names(&place.bucket().join(archive_name("ckp-1"))), set(&["memory", "state", MANIFEST]));
}

#[tokio::test]
async fn a_start_removes_what_an_interrupted_upload_left_in_a_folder() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    drop(archives);
    let left = [format!("{}/memory#1", archive_name("ckp-1")), "installation.json#1".to_owned()];
    let foreign = place.bucket().join("notes#1");
    for path in left.iter().map(|name| place.bucket().join(name)).chain([foreign.clone()]) {
        std::fs::write(path, b"half").expect("written");
    }
    let archives = place.with_bucket();
    for name in left {
        assert!(!place.bucket().join(&name).exists(), "{name}");
    }
    assert!(foreign.exists(), "somebody else's");
    check(&archives, "ckp-1").await;
}
