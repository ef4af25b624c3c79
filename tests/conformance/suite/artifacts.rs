//! Snapshots that must not be started. A flipped bit in a memory or disk file is found by the checksums of the layer
//! above; what is here, a driver has to refuse by itself.

use crate::rig::{Rig, SMALL, conform, note, refusal};
use crate::waiting::{PATIENCE, within};
use leapbox_ids::ImageDigest;
use leapbox_storage::copy_sparse;
use leapbox_vmm::{GuestImage, Shape, Snapshot, VmmError};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tries to start `snapshot`, which must fail in time and leave nothing behind.
async fn refused(rig: &Rig, snapshot: Snapshot, what: &str) -> VmmError {
    let disk = rig.world.warm(SMALL).await.disk.clone();
    let place = rig.place(Some(&disk)).await;
    let snapshot = Arc::new(snapshot);
    let outcome = within(PATIENCE, what, rig.restore_at(&place, &snapshot)).await;
    rig.vmm().forget(&snapshot).await;
    let error = match outcome {
        Ok(_) => panic!("{what}: a machine was started"),
        refused => refusal(refused),
    };
    note(&format!("  {what}: {error}"));
    rig.assert_nothing_left_of(&place.confinement).await;
    error
}

/// A copy of a snapshot's file that may be damaged.
fn copy_of(rig: &Rig, file: &Path) -> PathBuf {
    let copy = rig.new_dir().join("damaged");
    copy_sparse(file, &copy).expect("copied");
    std::fs::set_permissions(&copy, Permissions::from_mode(0o644)).expect("readable, as the original is");
    copy
}

fn truncate(path: &Path, length: u64) {
    File::options().write(true).open(path).expect("it opens").set_len(length).expect("it is cut");
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).expect("it is there").len()
}

#[test]
fn case_40_a_snapshot_made_for_something_else_is_refused_by_name() {
    conform(async |rig| {
        let warm = rig.world.warm(SMALL).await;
        let foreign = Snapshot { compatibility_key: "0".repeat(64), ..(*warm).clone() };
        match refused(rig, foreign, "another key").await {
            VmmError::Incompatible { found, expected } => {
                assert_eq!((found, expected), ("0".repeat(64), warm.compatibility_key.clone()));
            }
            error => panic!("{error}"),
        }
        let another_shape = Shape { memory_mib: 1024, ..SMALL };
        let mislabelled = Snapshot { shape: another_shape, ..(*warm).clone() };
        let error = refused(rig, mislabelled, "another shape").await;
        assert!(matches!(error, VmmError::Incompatible { .. }), "{error}");
    });
}

#[test]
fn case_40_the_key_follows_shape_and_image_and_nothing_else() {
    conform(async |rig| {
        let image = &rig.world.image;
        let key = |shape, image: &GuestImage| rig.vmm().compatibility_key(shape, image);
        let own = key(SMALL, image);
        assert_eq!(own, key(SMALL, image));
        assert_eq!(own, rig.world.restarted().await.compatibility_key(SMALL, image), "the next server has another");
        assert!(own.len() >= 32 && own.bytes().all(|b| b.is_ascii_hexdigit()), "{own}");
        let another_image = GuestImage { digest: ImageDigest::from([0; 32]), ..image.clone() };
        assert_ne!(own, key(SMALL, &another_image));
        for shape in [Shape { vcpus: 2, ..SMALL }, Shape { memory_mib: 1024, ..SMALL }] {
            assert_ne!(own, key(shape, image), "{shape}");
        }
    });
}

#[test]
fn case_39_a_truncated_memory_file_is_refused() {
    conform(async |rig| {
        let warm = rig.world.warm(SMALL).await;
        for kept in [length(&warm.memory) / 2, length(&warm.memory) - 4096, 0] {
            let memory = copy_of(rig, &warm.memory);
            truncate(&memory, kept);
            let cut = Snapshot { memory: memory.clone(), ..(*warm).clone() };
            match refused(rig, cut, &format!("memory cut to {kept} bytes")).await {
                VmmError::MemoryLength { path, found, .. } => assert_eq!((path, found), (memory, kept)),
                error => panic!("{error:?}"),
            }
        }
    });
}

#[test]
fn case_39_a_truncated_or_garbled_device_state_is_refused() {
    conform(async |rig| {
        let warm = rig.world.warm(SMALL).await;
        let whole = std::fs::read(&warm.state).expect("the device state");
        let last_missing = whole[..whole.len() - 1].to_vec();
        let mut head_garbled = whole;
        head_garbled.iter_mut().take(4096).for_each(|byte| *byte ^= 0xa5);
        let cases =
            [("empty", Vec::new()), ("all but the last byte", last_missing), ("its first page garbled", head_garbled)];
        for (what, bytes) in cases {
            let state = rig.new_dir().join("damaged");
            std::fs::write(&state, bytes).expect("written");
            refused(rig, Snapshot { state, ..(*warm).clone() }, &format!("device state: {what}")).await;
        }
    });
}

#[test]
fn case_39_a_snapshot_with_a_file_missing_is_refused_and_the_file_named() {
    conform(async |rig| {
        let warm = rig.world.warm(SMALL).await;
        let nowhere = rig.world.dir.join("nowhere");
        let without_memory = Snapshot { memory: nowhere.clone(), ..(*warm).clone() };
        let without_state = Snapshot { state: nowhere.clone(), ..(*warm).clone() };
        for snapshot in [without_memory, without_state] {
            let error = refused(rig, snapshot, "a file is missing").await;
            assert!(matches!(&error, VmmError::File(file) if file.path == nowhere), "{error:?}");
        }
        assert_eq!(rig.sandbox().await.sh("echo unharmed").await, "unharmed\n");
    });
}

#[test]
fn a_machine_without_its_disk_is_refused() {
    conform(async |rig| {
        let warm = rig.world.warm(SMALL).await;
        let place = rig.place(Some(&warm.disk)).await;
        std::fs::remove_file(&place.disk).expect("removed");
        let error = refusal(rig.restore_at(&place, &warm).await);
        assert!(matches!(&error, VmmError::File(file) if file.path == place.disk), "{error:?}");
        rig.assert_nothing_left_of(&place.confinement).await;
    });
}
