//! Finds out which users could replace the file at a path: checks every directory and symbolic link on the way to it.
//!
//! Called for the binaries, and by `leapbox doctor` for the directories in which jails are made.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The most symbolic links that are followed (the kernel's own limit, path_resolution(7)); a loop ends there.
const LINKS_MAX: usize = 40;
/// In a directory with this bit users can replace only entries of their own, even if all may write into it.
const STICKY: u32 = 0o1000;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A file or directory on the way that users other than root and the expected owner could change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untrusted {
    pub path: PathBuf,
    /// Uid of its owner.
    pub uid: u32,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, uid, mode } = self;
        if mode & WRITABLE_BY_OTHERS == 0 {
            return write!(f, "{} belongs to uid {uid}", path.display());
        }
        write!(f, "{} can be written by others (uid {uid}, mode {mode:04o})", path.display())
    }
}

/// Follows `path` below `root` to its end, as the kernel would in a chroot. Returns where it ends, and every file or
/// directory on the way that users other than root and `owner` could change: because it is not theirs, or because group
/// or others may write to it.
pub fn resolve(root: &Path, path: &Path, owner: u32) -> io::Result<(PathBuf, Vec<Untrusted>)> {
    let mut ahead: VecDeque<OsString> = names(path);
    let mut at = root.to_owned();
    let mut untrusted = Vec::new();
    let mut links = 0;
    note_if_untrusted(&at, &fs::symlink_metadata(&at)?, owner, &mut untrusted);
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            if at != root {
                at.pop();
            }
            continue;
        }
        let next = at.join(&name);
        let meta = fs::symlink_metadata(&next)?;
        if !meta.file_type().is_symlink() {
            note_if_untrusted(&next, &meta, owner, &mut untrusted);
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(io::Error::other("too many symbolic links"));
        }
        // A link's mode means nothing. Its target is walked name by name like the path itself, so that directories are
        // checked through which only the link leads.
        let target = fs::read_link(&next)?;
        if target.is_absolute() {
            at = root.to_owned();
        }
        for name in names(&target).into_iter().rev() {
            ahead.push_front(name);
        }
    }
    Ok((at, untrusted))
}

fn names(path: &Path) -> VecDeque<OsString> {
    let named = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().filter_map(named).collect()
}

fn note_if_untrusted(path: &Path, meta: &Metadata, owner: u32, untrusted: &mut Vec<Untrusted>) {
    let foreign = meta.uid() != 0 && meta.uid() != owner;
    // In a sticky directory only an entry's owner can replace it, and the next step checks who that is.
    let sticky_folder = meta.is_dir() && meta.mode() & STICKY != 0;
    // An access control list that lets a user write shows in the group's bits, which are its mask then (acl(5)).
    let writable = meta.mode() & WRITABLE_BY_OTHERS != 0 && !sticky_folder;
    if foreign || writable {
        untrusted.push(Untrusted { path: path.to_owned(), uid: meta.uid(), mode: meta.mode() & 0o7777 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn own_uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn tree(folders: &[(&str, u32)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temp dir");
        for (path, mode) in folders {
            let path = root.path().join(path);
            fs::create_dir_all(&path).expect("mkdir");
            fs::set_permissions(&path, Permissions::from_mode(*mode)).expect("chmod");
        }
        root
    }

    #[test]
    fn a_path_of_its_owner_alone_is_trusted_to_its_end() {
        let root = tree(&[("usr", 0o755), ("usr/bin", 0o755)]);
        let (end, untrusted) = resolve(root.path(), Path::new("/usr/bin"), own_uid()).expect("followed");
        assert_eq!((end, untrusted), (root.path().join("usr/bin"), Vec::new()));
    }

    #[test]
    fn a_folder_far_above_that_a_group_may_write_into_is_named() {
        let root = tree(&[("usr", 0o775), ("usr/bin", 0o755)]);
        let (_, untrusted) = resolve(root.path(), Path::new("usr/bin"), own_uid()).expect("followed");
        assert_eq!(untrusted.len(), 1);
        assert!(untrusted[0].to_string().contains("usr can be written by others"), "{}", untrusted[0]);
    }

    #[test]
    fn a_folder_through_which_only_a_link_leads_counts_too() {
        let root = tree(&[("opt", 0o777), ("opt/links", 0o755), ("usr", 0o755), ("usr/bin", 0o755)]);
        symlink("/usr/bin", root.path().join("opt/links/bin")).expect("symlink");
        symlink("../opt/links", root.path().join("usr/links")).expect("symlink");
        let (end, untrusted) = resolve(root.path(), Path::new("/usr/links/bin"), own_uid()).expect("followed");
        assert_eq!(end, root.path().join("usr/bin"));
        let named: Vec<_> = untrusted.into_iter().map(|u| u.path).collect();
        assert_eq!(named, [root.path().join("opt")]);
    }

    #[test]
    fn a_sticky_folder_protects_what_lies_in_it() {
        let root = tree(&[("tmp", 0o1777), ("tmp/mine", 0o755)]);
        let (_, untrusted) = resolve(root.path(), Path::new("/tmp/mine"), own_uid()).expect("followed");
        assert_eq!(untrusted, []);
    }

    #[test]
    fn a_loop_of_links_ends_in_an_error() {
        let root = tree(&[]);
        symlink("b", root.path().join("a")).expect("symlink");
        symlink("a", root.path().join("b")).expect("symlink");
        assert!(resolve(root.path(), Path::new("/a"), own_uid()).is_err());
    }

    #[test]
    fn two_dots_do_not_lead_out_of_the_root() {
        let root = tree(&[("etc", 0o755)]);
        let (end, _) = resolve(root.path(), Path::new("/../../etc"), own_uid()).expect("followed");
        assert_eq!(end, root.path().join("etc"));
    }
}
