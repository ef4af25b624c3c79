//! Overlays: writes changes over a copy of a base's memory file, for a VMM that reads guest memory while it loads its
//! devices. The Firecracker driver restores with it.

use super::InheritedPages;
use super::changes::checked;
use crate::error::VmmError;
use leapbox_errors::FileError;
use leapbox_storage::{Runs, copy_sparse};
use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The two files of a memory that [`overlay()`] has written.
#[derive(Debug)]
pub(crate) struct OverlaidMemory {
    /// The memory. Nothing may write to it while a machine has it mapped.
    pub memory: PathBuf,
    /// The file of its inherited pages, written by [`InheritedPages::save`].
    pub inherited_pages: PathBuf,
}

/// Writes the new file `target`: a copy of `base`, which has `bytes` bytes, overlaid with `changes`. Returns its
/// inherited pages. The file is root's and readable by all. Blocking; after a failure a part of it may exist.
pub(crate) fn overlay(base: &Path, changes: Runs, bytes: u64, target: &Path) -> Result<InheritedPages, VmmError> {
    // Holes stay holes, and where the file system can share extents nothing is copied. Not synced: a host that loses
    // power loses the machine as well.
    copy_sparse(base, target).map_err(|source| VmmError::CopyMemory { path: base.to_path_buf(), source })?;
    let to = File::options().write(true).open(target).map_err(FileError::of("opening", target))?;
    let mut inherited_pages = InheritedPages::default();
    for run in checked(changes, bytes) {
        let run = run?;
        to.write_all_at(&run.bytes, run.offset).map_err(FileError::of("writing changes into", target))?;
        inherited_pages.push(run.offset..run.offset + run.bytes.len() as u64);
    }
    to.set_permissions(Permissions::from_mode(0o444)).map_err(FileError::of("making read-only", target))?;
    Ok(inherited_pages)
}

#[cfg(test)]
mod tests {
    use super::super::PAGE;
    use super::super::changes::tests::{damaged, run, runs};
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn an_overlaid_memory_has_both_and_stays_sparse() {
        let dir = tempfile::tempdir().expect("a folder");
        let (base, target) = (dir.path().join("base"), dir.path().join("target"));
        let file = File::create(&base).expect("created");
        file.set_len(1 << 30).expect("sized");
        file.write_all_at(&[1; 8192], 1 << 20).expect("written");
        let first = (1 << 20) / PAGE;
        let changes = vec![run(first, 1, 0), run(first + 1, 1, 2), run(100_000, 1, 3)];
        let inherited = overlay(&base, runs(changes.clone()), 1 << 30, &target).expect("overlaid");
        assert_eq!(inherited.ranges(), [1 << 20..(1 << 20) + 8192, 100_000 * PAGE..100_001 * PAGE]);
        let overlaid = File::open(&target).expect("opened");
        let mut bytes = [9; 8192];
        overlaid.read_exact_at(&mut bytes, 1 << 20).expect("read");
        assert!(bytes[..4096].iter().all(|byte| *byte == 0) && bytes[4096..].iter().all(|byte| *byte == 2));
        let meta = overlaid.metadata().expect("metadata");
        assert_eq!((meta.len(), meta.mode() & 0o777), (1 << 30, 0o444));
        assert!(meta.blocks() * 512 < 1 << 20, "{} bytes on disk", meta.blocks() * 512);
        assert!(overlay(&base, runs(changes), 1 << 30, &target).is_err(), "it was overwritten");
    }

    #[test]
    fn changes_that_are_damaged_or_do_not_fit_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let base = dir.path().join("base");
        File::create(&base).expect("created").set_len(16 << 20).expect("sized");
        let overlaid = |changes, name: &str| overlay(&base, changes, 16 << 20, &dir.path().join(name));
        assert!(matches!(overlaid(damaged(), "damaged"), Err(VmmError::Changes { .. })));
        assert!(matches!(overlaid(runs(vec![run(4096, 1, 1)]), "beyond"), Err(VmmError::Change { .. })));
    }
}
