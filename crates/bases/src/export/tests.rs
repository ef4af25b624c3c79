//! Real archives, small contents.

use super::*;
use crate::base::BaseKind;
use leapbox_ids::ImageDigest;
use leapbox_storage::{ArchiveStore, ServerKey, StoreConfig};
use leapbox_vmm::Shape;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

struct Place {
    root: tempfile::TempDir,
    store: ArchiveStore,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        for name in ["warm", "lost"] {
            std::fs::create_dir(root.path().join(name)).expect("made");
        }
        let key = ServerKey::load_or_create(&root.path().join("key")).expect("a key");
        let config = StoreConfig {
            dir: root.path().join("archives"),
            key,
            remote: None,
            cache_bytes: None,
            installation: "test".to_owned(),
            known_sequence: 0,
        };
        Self { store: ArchiveStore::open(config).expect("opened"), root }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A base with sparse files.
    fn base(&self) -> Base {
        let unfinished = self.dir("warm").join(".unfinished");
        std::fs::create_dir(&unfinished).expect("made");
        for (name, length) in [("memory", 64 << 20), ("disk", 1 << 30)] {
            let file = File::create_new(unfinished.join(name)).expect("made");
            file.set_len(length).expect("sized");
            file.write_all_at(name.repeat(5000).as_bytes(), 5 << 20).expect("written");
        }
        std::fs::write(unfinished.join("state"), "the state").expect("written");
        folder::seal(&header(), &unfinished, &self.dir("warm")).expect("sealed")
    }
}

fn header() -> Header {
    let name = str::to_owned;
    let (memory, state, disk) = (name("memory"), name("state"), name("disk"));
    let (image, compatibility_key) = (ImageDigest::from([0; 32]), name("key"));
    let shape = Shape { vcpus: 1, memory_mib: 64 };
    Header { kind: BaseKind::Diskless, image, taken_at_ms: 7, shape, compatibility_key, memory, state, disk }
}

#[tokio::test]
async fn a_base_comes_back_from_its_archive_with_its_id_and_its_holes() {
    let place = Place::new();
    let base = place.base();
    let writer = place.store.begin(&ArchiveId::from(&base.id), None).expect("begun");
    let sealed = pack(&place.dir("warm").join(base.id.as_str()), &base, writer).expect("packed");
    assert!(sealed.plain_bytes < 100_000, "{sealed:?}");
    let archive = place.store.get(&ArchiveId::from(&base.id)).await.expect("there");
    let unfinished = place.dir("lost").join(".import");
    std::fs::create_dir(&unfinished).expect("made");
    let back = unpack(&archive, &unfinished, &place.dir("lost")).expect("unpacked");
    assert_eq!((&back.id, back.kind, back.taken_at_ms), (&base.id, BaseKind::Diskless, 7));
    folder::verify(&place.dir("lost").join(back.id.as_str())).expect("sound");
    let disk = std::fs::metadata(&back.snapshot.disk).expect("there");
    assert_eq!((disk.len(), disk.mode() & 0o777), (1 << 30, 0o444));
    assert!(disk.blocks() * 512 < 1 << 20, "{} bytes on disk", disk.blocks() * 512);
}

#[tokio::test]
async fn an_archive_whose_contents_are_another_bases_is_refused() {
    let place = Place::new();
    let base = place.base();
    let id = BaseId::from([0; 32]);
    let writer = place.store.begin(&ArchiveId::from(&id), None).expect("begun");
    drop(pack(&place.dir("warm").join(base.id.as_str()), &base, writer).expect("packed"));
    let archive = place.store.get(&ArchiveId::from(&id)).await.expect("there");
    let unfinished = place.dir("lost").join(".import");
    std::fs::create_dir(&unfinished).expect("made");
    let refused = unpack(&archive, &unfinished, &place.dir("lost")).expect_err("refused").of_base(id.clone());
    let cause = std::error::Error::source(&refused).expect("a cause").to_string();
    assert_eq!(cause, format!("what is stored as {id} is {}", base.id));
    assert!(!place.dir("lost").join(id.as_str()).exists() && !place.dir("lost").join(base.id.as_str()).exists());
}

#[test]
fn a_name_in_an_archive_that_leads_elsewhere_is_refused() {
    for name in ["../memory", "/etc/passwd", "a/b", "..", ""] {
        assert!(matches!(path_in(Path::new("/warm"), name), Err(PackError::Name { .. })), "{name:?}");
    }
}
