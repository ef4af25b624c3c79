//! What is sealed is never lost, what nothing names goes, and a bucket is believed nothing.

use super::*;
use crate::archive::MANIFEST;
use crate::run::{Run, Runs};
use crate::test_ids::{archive_id, archive_name};
use std::collections::BTreeSet;
use std::path::Path;

mod bucket;
mod ownership;
mod s3;
mod server;
mod surveys;
mod sweeps;

/// A folder for a store, and one that stands in for a bucket.
pub(super) struct Place {
    root: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self { root: tempfile::tempdir().expect("a folder") }
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.root.path().join("archives")
    }

    pub(super) fn bucket(&self) -> PathBuf {
        self.root.path().join("bucket")
    }

    pub(super) fn config(&self, remote: Option<RemoteConfig>) -> StoreConfig {
        StoreConfig {
            dir: self.dir(),
            key: ServerKey::of(7),
            remote,
            cache_bytes: None,
            installation: "ins-1".to_owned(),
            known_sequence: 0,
        }
    }

    fn file_url(&self) -> RemoteConfig {
        RemoteConfig::new(&format!("file://{}", self.bucket().display()), []).expect("a folder")
    }

    /// Without a bucket.
    pub(super) fn alone(&self) -> ArchiveStore {
        ArchiveStore::open(self.config(None)).expect("opened")
    }

    /// With a folder as bucket.
    pub(super) fn with_bucket(&self) -> ArchiveStore {
        ArchiveStore::open(self.config(Some(self.file_url()))).expect("opened")
    }

    fn with_cache(&self, cache_bytes: u64) -> ArchiveStore {
        let config = StoreConfig { cache_bytes: Some(cache_bytes), ..self.config(Some(self.file_url())) };
        ArchiveStore::open(config).expect("opened")
    }
}

/// Bytes that cannot be compressed, others for every id.
pub(super) fn contents(id: &str) -> Vec<u8> {
    let mut bytes = vec![0; 300_000];
    blake3::Hasher::new().update(id.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(super) fn write(store: &ArchiveStore, id: &str) -> Sealed {
    write_stamped(store, id, None)
}

fn write_stamped(store: &ArchiveStore, id: &str, stamp: Option<Stamp>) -> Sealed {
    let mut writer = store.begin(&archive_id(id), stamp).expect("begun");
    let memory: Runs = Box::new([Ok(Run { offset: 4096, bytes: contents(id) })].into_iter());
    writer.runs("memory", memory).expect("written");
    writer.bytes("state", id.as_bytes()).expect("written");
    writer.seal(&id).expect("sealed")
}

/// Writes and releases.
pub(super) fn store(store: &ArchiveStore, id: &str) {
    write(store, id).pin.release();
}

pub(super) fn stamp(installation: &str, sequence: u64) -> Stamp {
    Stamp { installation: installation.to_owned(), sequence }
}

pub(super) fn store_stamped(store: &ArchiveStore, id: &str, stamp: Stamp) {
    write_stamped(store, id, Some(stamp)).pin.release();
}

pub(super) async fn check(store: &ArchiveStore, id: &str) {
    let archive = store.get(&archive_id(id)).await.expect("there");
    assert_eq!(archive.header::<String>().expect("a header"), id);
    let memory: Vec<Run> = archive.runs("memory").expect("there").collect::<Result<_, _>>().expect("read");
    assert!(memory.len() == 1 && memory[0].bytes == contents(id));
}

pub(super) fn names(dir: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return BTreeSet::new();
    };
    let names = entries.map(|entry| entry.expect("listed").file_name().into_string().expect("text"));
    names.filter(|name| name != ".lock" && name != "installation.json").collect()
}

/// Names of folders and files, of archives by their short names.
pub(super) fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| archive_name(id)).collect()
}

#[tokio::test]
async fn what_was_sealed_is_there_after_a_restart_and_gone_after_its_removal() {
    let place = Place::new();
    let archives = place.alone();
    let sealed = write(&archives, "ckp-1");
    assert_eq!(sealed.plain_bytes, 300_005);
    assert_eq!(archives.usage().pending_bytes, sealed.stored_bytes);
    sealed.pin.release();
    drop(archives);
    let archives = place.alone();
    check(&archives, "ckp-1").await;
    let reading = archives.get(&archive_id("ckp-1")).await.expect("there");
    archives.remove(&archive_id("ckp-1")).await.expect("removed");
    archives.remove(&archive_id("ckp-1")).await.expect("no error either");
    reading.verify().expect("whoever reads it is not disturbed");
    let id = archive_id("ckp-1");
    assert!(matches!(archives.get(&id).await, Err(StoreError::NotFound { id: missing }) if missing == id));
    assert_eq!((archives.usage(), names(&place.dir())), (Usage::default(), set(&[])));
}

#[test]
fn a_start_removes_what_a_killed_server_left_unfinished_and_nothing_else() {
    let place = Place::new();
    let archives = place.alone();
    store(&archives, "ckp-1");
    std::mem::forget(archives.begin(&archive_id("ckp-2"), None).expect("begun")); // never dropped, as after a kill
    for left in [".fetch-ckp-3", ".gone-ckp-4-1"] {
        std::fs::create_dir(place.dir().join(left)).expect("made");
        std::fs::write(place.dir().join(left).join("memory"), b"half").expect("written");
    }
    std::fs::write(place.dir().join("notes.txt"), b"somebody's").expect("written");
    let inner = Arc::into_inner(archives.inner).expect("the only one");
    drop(inner); // the lock goes with it
    assert!(names(&place.dir()).len() > 2);
    let archives = place.alone();
    assert_eq!(names(&place.dir()), set(&["ckp-1", "notes.txt"]));
    assert_eq!(archives.usage().archives, 1);
    drop(archives.begin(&archive_id("ckp-2"), None).expect("can be begun again"));
}

#[test]
fn a_folder_is_open_in_one_server_only() {
    let place = Place::new();
    let archives = place.alone();
    store(&archives, "ckp-1");
    assert!(matches!(ArchiveStore::open(place.config(None)), Err(StoreError::InUse { .. })));
    drop(archives);
    place.alone();
}

#[test]
fn an_archive_that_is_dropped_unsealed_leaves_nothing() {
    let place = Place::new();
    let archives = place.alone();
    let mut writer = archives.begin(&archive_id("ckp-1"), None).expect("begun");
    writer.bytes("state", b"registers").expect("written");
    drop(writer);
    assert_eq!((names(&place.dir()), archives.usage()), (set(&[]), Usage::default()));
}
