//! Fake hosts for tests: a directory that stands for `/`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

/// Makes a host with these files, given as paths and texts.
pub(super) fn host(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().expect("temp dir");
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(path, text).expect("write");
    }
    root
}

/// Gives a file or directory of the host these permissions.
pub(super) fn chmod(root: &TempDir, path: &str, mode: u32) {
    fs::set_permissions(root.path().join(path), Permissions::from_mode(mode)).expect("chmod");
}
