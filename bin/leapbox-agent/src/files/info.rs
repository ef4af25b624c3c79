//! Describes a file in the form of the API's `FileInfo`. Called by `list` and by `stat`.

use super::MODE_BITS;
use crate::names::Names;
use leapbox_guest_protocol::FileInfo;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Describes the file that `metadata` was read from. Bytes of names that are not UTF-8 become replacement characters.
pub(super) fn describe(path: &Path, metadata: &Metadata, names: &Names) -> FileInfo {
    let is_symlink = metadata.is_symlink();
    // A link that was replaced meanwhile has no target here, which is no reason for a listing to fail.
    let target = if is_symlink { fs::read_link(path).ok() } else { None };
    FileInfo {
        name: path.file_name().map_or_else(|| "/".into(), |name| name.to_string_lossy().into_owned()),
        path: path.to_string_lossy().into_owned(),
        is_dir: metadata.is_dir(),
        size: metadata.size(),
        mode: format!("{:o}", metadata.mode() & MODE_BITS),
        mtime: metadata.mtime(),
        owner: names.user(metadata.uid()),
        group: names.group(metadata.gid()),
        is_symlink,
        link_target: target.map(|target| target.to_string_lossy().into_owned()),
    }
}
