//! A sandbox's writable disk: an ext4 file system in a sparse file.

use crate::StorageError;
use leapbox_errors::FileError;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

/// Creates an empty ext4 file system in a new sparse file of `size_mib` MiB, which then holds about 4 MiB of data.
/// Blocking; needs `mkfs.ext4` (e2fsprogs). Every base has such a disk, and every sandbox gets a copy of it.
pub fn create_pristine_disk(path: &Path, size_mib: u64) -> Result<(), StorageError> {
    let file = File::create_new(path).map_err(FileError::of("creating", path))?;
    file.set_len(size_mib << 20).map_err(FileError::of("sizing", path))?;
    // By default the inode tables are zeroed lazily: a kernel thread of every guest would do it after the first mount
    // and so write into every clone's disk. Now it costs nothing, because a sparse file reads as zeroes and mkfs may
    // assume that. The owner of the root directory is given, because it must not depend on who runs the server.
    let options = "lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1,root_owner=0:0";
    // -m 0: nothing is reserved for root, because the whole disk is the workload's. -F: mkfs never stops to ask.
    let arguments = ["-q", "-F", "-m", "0", "-J", "size=16", "-E", options, "-L", "leapbox"];
    let output = Command::new("mkfs.ext4")
        .args(arguments)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(FileError::of("running mkfs.ext4 on", path))?;
    if output.status.success() {
        return Ok(());
    }
    Err(StorageError::Command {
        argv: format!("mkfs.ext4 {} {}", arguments.join(" "), path.display()),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Free space in MiB of the file system that holds `path`. `lifecycle` refuses pauses, wakes and creates when it is
/// low.
pub fn free_mib(path: &Path) -> Result<u64, StorageError> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(FileError::of("asking for the free space of", path))?;
    // f_bavail and not f_bfree: what the file system keeps for root is left to the host, although the server is root.
    Ok((stat.blocks_available() * stat.fragment_size()) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_pristine_disk_is_large_in_name_and_small_in_fact() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("disk.ext4");
        create_pristine_disk(&path, 10 * 1024).expect("made");
        let meta = std::fs::metadata(&path).expect("metadata");
        assert_eq!(meta.len(), 10 << 30);
        assert!(meta.blocks() * 512 < 24 << 20, "{} bytes on disk", meta.blocks() * 512);
    }

    #[test]
    fn a_failing_mkfs_says_its_command_and_why() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("disk.ext4");
        let error = create_pristine_disk(&path, 0).expect_err("no file system fits in nothing").to_string();
        assert!(error.contains("mkfs.ext4") && error.contains("disk.ext4"), "{error}");
    }
}
