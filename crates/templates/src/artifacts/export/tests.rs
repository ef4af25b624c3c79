//! Real archives, small contents.

use super::super::tests::{FIRST, build_image};
use super::*;
use leapbox_storage::{ArchiveStore, ServerKey, StoreConfig};

fn store(root: &Path) -> ArchiveStore {
    let key = ServerKey::load_or_create(&root.join("key")).expect("a key");
    let (dir, installation) = (root.join("archives"), "test".to_owned());
    ArchiveStore::open(StoreConfig { dir, key, remote: None, cache_bytes: None, installation, known_sequence: 0 })
        .expect("opened")
}

/// The artifacts of a host with one template; its image's digest; its archive.
async fn exported(root: &Path) -> (Artifacts, ImageDigest, Archive) {
    build_image(&root.join("one"), FIRST);
    let artifacts = Artifacts::open(&root.join("one")).expect("open");
    let digest = artifacts.guest_image("system/test").expect("built").digest;
    let (store, id) = (store(root), ArchiveId::from(&digest));
    let sealed = artifacts.export_image(&digest, store.begin(&id, None).expect("begun")).await.expect("exported");
    assert!(sealed.plain_bytes > 0);
    let archive = store.get(&id).await.expect("there");
    (artifacts, digest, archive)
}

/// The artifacts of a host with another initramfs, kernel and root file system.
fn another_host(root: &Path) -> Artifacts {
    build_image(&root.join("two"), ["other kernel", "other initramfs", "other root"]);
    Artifacts::open(&root.join("two")).expect("open")
}

#[tokio::test]
async fn an_image_comes_back_from_its_archive_on_a_host_that_never_had_it() {
    let root = tempfile::tempdir().expect("a folder");
    let (one, digest, archive) = exported(root.path()).await;
    let two = another_host(root.path());
    assert!(matches!(two.image_of(&digest), Err(ArtifactError::NoImage { .. })));
    let (image, config) = two.import_image(archive).await.expect("imported");
    assert_eq!(image.digest, digest);
    assert_eq!(std::fs::read_to_string(&image.kernel).expect("read"), FIRST[0]);
    assert_eq!(std::fs::read_to_string(&image.rootfs).expect("read"), FIRST[2]);
    assert_eq!(config, one.image_config("system/test").expect("read"));
    assert_eq!(two.image_of(&digest).expect("here from now on").0, image);
    let leftovers = std::fs::read_dir(root.path().join("two/imported")).expect("listed").count();
    assert_eq!(leftovers, 1, "only the image is left");
}

#[tokio::test]
async fn an_image_that_is_here_is_not_made_again() {
    let root = tempfile::tempdir().expect("a folder");
    let (one, digest, archive) = exported(root.path()).await;
    let (image, _) = one.import_image(archive).await.expect("here");
    assert_eq!(image, one.image_of(&digest).expect("here").0);
    assert!(!root.path().join("one/imported").exists());
}

#[tokio::test]
async fn a_damaged_image_is_not_stored() {
    let root = tempfile::tempdir().expect("a folder");
    let (one, digest, _) = exported(root.path()).await;
    let rootfs = one.guest_image("system/test").expect("built").rootfs;
    std::fs::write(&rootfs, FIRST[2].to_uppercase()).expect("written");
    let store = store(&root.path().join("one"));
    let refused = one
        .export_image(&digest, store.begin(&ArchiveId::from(&digest), None).expect("begun"))
        .await
        .expect_err("refused");
    assert!(matches!(refused, ArtifactError::Damaged { ref path, .. } if *path == rootfs), "{refused}");
}

#[tokio::test]
async fn an_archive_with_another_images_contents_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let (one, digest, _) = exported(root.path()).await;
    let store = store(&root.path().join("one"));
    let other = ImageDigest::from([0; 32]);
    let id = ArchiveId::from(&other);
    drop(one.export_image(&digest, store.begin(&id, None).expect("begun")).await.expect("exported"));
    let two = another_host(root.path());
    let refused = two.import_image(store.get(&id).await.expect("there")).await.expect_err("refused");
    let cause = std::error::Error::source(&refused).expect("a cause").to_string();
    assert_eq!(cause, format!("what is stored as {id} is image-{digest}"));
    assert!(two.image_of(&other).is_err() && two.image_of(&digest).is_err());
}
