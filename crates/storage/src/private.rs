//! Directories that nobody but this server may enter. The files in them are readable by all, so that VMMs under uids of
//! their own can open hard links to them, and machines are started from them: only the directory keeps others from
//! reading and replacing them.

use leapbox_errors::FileError;
use nix::unistd::Uid;
use std::fs::{DirBuilder, Metadata, Permissions, symlink_metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const STICKY: u32 = 0o1000;
const OTHERS_MAY_WRITE: u32 = 0o022;

/// A directory cannot be used for files that must stay private.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    #[error(transparent)]
    File(#[from] FileError),
    /// A file, or a link, which may lead to a directory that others can change.
    #[error("{path} is not a directory")]
    NotADirectory { path: PathBuf },
    /// `path` is the directory or its parent.
    #[error("{path} belongs to uid {owner}, not to the server's: `chown` it, or configure another directory")]
    Owner { path: PathBuf, owner: u32 },
    /// Whoever can write the parent `path` could put another directory in the private one's place.
    #[error("{path} may be written by others (mode {mode:04o}): `chmod go-w` it, or configure another directory")]
    Writable { path: PathBuf, mode: u32 },
}

/// Creates the directory `path`, and those that are missing above it, for this process's user alone (0700). One that
/// exists must be a real directory of that user, in a directory that only that user or root can change; a wider mode is
/// narrowed to 0700. Blocking.
pub fn private_dir(path: &Path) -> Result<(), PrivateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .or_else(already_there)
        .map_err(FileError::of("creating", path))?;
    // Checked also after it was created: somebody may have been quicker, and `recursive` accepts what exists.
    let found = symlink_metadata(path).map_err(FileError::of("looking at", path))?;
    if !found.is_dir() {
        return Err(PrivateError::NotADirectory { path: path.to_path_buf() });
    }
    if found.uid() != Uid::effective().as_raw() {
        return Err(PrivateError::Owner { path: path.to_path_buf(), owner: found.uid() });
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        check_parent(parent, &std::fs::metadata(parent).map_err(FileError::of("looking at", parent))?)?;
    }
    if found.mode() & 0o7777 != 0o700 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(FileError::of("closing to others", path))?;
    }
    Ok(())
}

/// Whatever exists is no error yet: it is judged by its metadata.
fn already_there(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

fn check_parent(path: &Path, found: &Metadata) -> Result<(), PrivateError> {
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if owner != 0 && owner != Uid::effective().as_raw() {
        return Err(PrivateError::Owner { path: path.to_path_buf(), owner });
    }
    // In a sticky directory (/tmp) others can add entries, but neither rename nor remove the server's.
    if mode & OTHERS_MAY_WRITE != 0 && mode & STICKY == 0 {
        return Err(PrivateError::Writable { path: path.to_path_buf(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        symlink_metadata(path).expect("there").mode() & 0o7777
    }

    #[test]
    fn what_is_missing_is_made_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("state/warm");
        private_dir(&path).expect("made");
        private_dir(&path).expect("there already");
        assert_eq!((mode(&path), mode(&dir.path().join("state"))), (0o700, 0o700));
    }

    #[test]
    fn one_that_was_open_to_others_is_closed() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("warm");
        DirBuilder::new().mode(0o755).create(&path).expect("made");
        private_dir(&path).expect("closed");
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_link_planted_in_its_place_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, elsewhere) = (dir.path().join("warm"), dir.path().join("elsewhere"));
        DirBuilder::new().mode(0o755).create(&elsewhere).expect("made");
        std::os::unix::fs::symlink(&elsewhere, &path).expect("linked");
        let error = private_dir(&path).expect_err("a link");
        assert!(matches!(error, PrivateError::NotADirectory { .. }), "{error}");
        assert_eq!(mode(&elsewhere), 0o755, "what it led to is as it was");
    }

    #[test]
    fn a_parent_that_others_can_write_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("opened");
        let error = private_dir(&dir.path().join("warm")).expect_err("anybody could swap it");
        assert!(matches!(error, PrivateError::Writable { mode: 0o777, .. }), "{error}");
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("warm");
        DirBuilder::new().create(&path).expect("made");
        if std::os::unix::fs::chown(&path, Some(4711), None).is_err() {
            return; // only root can give a folder away
        }
        let error = private_dir(&path).expect_err("somebody else's");
        assert!(matches!(error, PrivateError::Owner { owner: 4711, .. }), "{error}");
    }
}
