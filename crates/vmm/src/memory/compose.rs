//! A snapshot's memory and a diff put together.

use super::blocking;
use crate::error::VmmError;
use leapbox_storage::{copy_data, copy_sparse};
use std::fs::File;
use std::path::Path;

/// Writes the new file `target` (mode 0600): `base`, the memory of a snapshot, with the data of `diff` laid over it, the
/// memory of a [`DiffSnapshot`](crate::DiffSnapshot) taken of a clone of that snapshot. Holes stay holes, and nothing
/// is copied that the file system can share. Not synced. The file is there when it is whole, and not before.
pub async fn compose_memory(base: &Path, diff: &Path, target: &Path) -> Result<(), VmmError> {
    let (base, diff, target) = (base.to_path_buf(), diff.to_path_buf(), target.to_path_buf());
    blocking("composing a memory", move || compose(&base, &diff, &target)).await
}

fn compose(base: &Path, diff: &Path, target: &Path) -> Result<(), VmmError> {
    let (_, base_bytes) = open(base)?;
    let (from, diff_bytes) = open(diff)?;
    if base_bytes != diff_bytes {
        let (base, diff) = (base.to_path_buf(), diff.to_path_buf());
        return Err(VmmError::NoDiffOf { base, base_bytes, diff, diff_bytes });
    }
    let mut name = target.as_os_str().to_owned();
    name.push(".unfinished");
    let unfinished = Path::new(&name);
    let composed = lay_over(base, &from, unfinished).and_then(|()| {
        // Unlike a rename, a link never replaces.
        let linked = std::fs::hard_link(unfinished, target);
        linked.map_err(|source| VmmError::File { step: "creating", path: target.to_path_buf(), source })
    });
    let _ = std::fs::remove_file(unfinished);
    composed
}

fn lay_over(base: &Path, diff: &File, target: &Path) -> Result<(), VmmError> {
    // Of a server that was killed.
    let _ = std::fs::remove_file(target);
    copy_sparse(base, target).map_err(|source| VmmError::CopyMemory { path: base.to_path_buf(), source })?;
    let laid = File::options().write(true).open(target).and_then(|to| copy_data(diff, &to));
    laid.map_err(|source| VmmError::File { step: "laying a diff over", path: target.to_path_buf(), source })
}

fn open(path: &Path) -> Result<(File, u64), VmmError> {
    let opened = File::open(path).and_then(|file| file.metadata().map(|meta| (file, meta.len())));
    opened.map_err(|source| VmmError::File { step: "opening", path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[tokio::test]
    async fn a_composed_memory_stays_sparse() {
        let dir = tempfile::tempdir().expect("a folder");
        let (base, diff, target) = (dir.path().join("base"), dir.path().join("diff"), dir.path().join("target"));
        let file = |path: &Path| {
            let file = File::create(path).expect("created");
            file.set_len(1 << 30).expect("sized");
            file
        };
        file(&base).write_all_at(&[1; 8192], 1 << 20).expect("written");
        let changes = file(&diff);
        changes.write_all_at(&[0; 4096], 1 << 20).expect("written");
        changes.write_all_at(&[2; 4096], (1 << 20) + 4096).expect("written");
        compose_memory(&base, &diff, &target).await.expect("composed");
        let composed = File::open(&target).expect("opened");
        let mut bytes = [9; 8192];
        composed.read_exact_at(&mut bytes, 1 << 20).expect("read");
        assert!(bytes[..4096].iter().all(|byte| *byte == 0) && bytes[4096..].iter().all(|byte| *byte == 2));
        let meta = composed.metadata().expect("metadata");
        assert_eq!((meta.len(), meta.mode() & 0o777), (1 << 30, 0o600));
        assert!(meta.blocks() * 512 < 1 << 20, "{} bytes on disk", meta.blocks() * 512);
        assert!(compose_memory(&base, &diff, &target).await.is_err(), "it was overwritten");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 3);
    }

    #[tokio::test]
    async fn a_diff_of_another_size_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let (base, diff, target) = (dir.path().join("base"), dir.path().join("diff"), dir.path().join("target"));
        std::fs::write(&base, [1; 8192]).expect("written");
        std::fs::write(&diff, [1; 4096]).expect("written");
        let refused = compose_memory(&base, &diff, &target).await;
        assert!(matches!(refused, Err(VmmError::NoDiffOf { base_bytes: 8192, diff_bytes: 4096, .. })), "{refused:?}");
        assert!(!target.exists());
    }
}
