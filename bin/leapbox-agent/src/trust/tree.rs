//! Reads and writes files below a directory, safely against anything the guest's root may have made of them.
//!
//! No symbolic link is followed and no mount entered: behind one may be a FUSE file system, for whose answer the agent
//! would wait for ever. Only regular files of a bounded size are read, and a file is changed by renaming a new one over
//! it. Called by `disk` and `memory`.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, symlinkat, unlinkat};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The most bytes of a file that are read, because the guest's root decides how large it is. Debian's bundle of
/// certificates has 220 KB.
const MAX_FILE: u64 = 4 << 20;

/// The directory. Paths are absolute, with the directory as their root.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

/// Mode and owner of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// A file's bytes and attributes, as they were read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) attributes: Attributes,
}

impl Attributes {
    /// The attributes of a file that belongs to root, with these mode bits.
    pub(super) const fn of_root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}

impl Tree {
    /// Opens the directory at this path.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let root = OpenOptions::new().read(true).custom_flags(flags).open(root)?;
        Ok(Self { root: root.into() })
    }

    /// The directory's descriptor, for system calls that take one.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Reads a regular file; `None` if there is nothing at this path.
    pub(super) fn read(&self, path: &str) -> io::Result<Option<Content>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        match self.open_inside(path, flags) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            opened => Ok(Some(read_regular(File::from(opened?))?)),
        }
    }

    /// Reads a regular file through symbolic links, which cannot leave the tree; `None` if they lead to nothing.
    pub(super) fn read_through_links(&self, path: &str) -> io::Result<Option<Content>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        match openat2(&self.root, path, OpenHow::new().flags(flags).resolve(resolve)) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            opened => Ok(Some(read_regular(File::from(opened?))?)),
        }
    }

    /// Writes a file, replacing anything at its path but a directory. A file that is equal already is left alone.
    pub(super) fn write(&self, path: &str, bytes: &[u8], attributes: Attributes) -> io::Result<()> {
        if let Ok(Some(old)) = self.read(path)
            && old.bytes == bytes
            && old.attributes == attributes
        {
            return Ok(());
        }
        self.replace(path, |folder, name| {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file = File::from(openat(folder, name, flags, Mode::from_bits_truncate(0o600))?);
            file.write_all(bytes)?;
            // The owner before the mode: chown(2) clears the setuid bits.
            fchown(&file, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))?;
            fchmod(&file, Mode::from_bits_truncate(attributes.mode))?;
            Ok(())
        })
    }

    /// Makes a symbolic link, replacing anything at its path but a directory.
    pub(super) fn link(&self, path: &str, target: &str) -> io::Result<()> {
        if self.target(path)?.is_some_and(|old| old == target) {
            return Ok(());
        }
        self.replace(path, |folder, name| Ok(symlinkat(target, folder, name)?))
    }

    /// Reads the target of a symbolic link; `None` if there is nothing, or something else.
    pub(super) fn target(&self, path: &str) -> io::Result<Option<OsString>> {
        let Some((folder, name)) = self.parent(path)? else { return Ok(None) };
        match readlinkat(&folder, name) {
            Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
            target => Ok(Some(target?)),
        }
    }

    /// Removes a file or a symbolic link; does nothing if there is none.
    pub(super) fn remove(&self, path: &str) -> io::Result<()> {
        let Some((folder, name)) = self.parent(path)? else { return Ok(()) };
        match unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// Whether there is a directory at this path.
    pub(super) fn has_folder(&self, path: &str) -> bool {
        self.open_inside(path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok()
    }

    /// Makes a directory and those above it that are missing.
    pub(super) fn make_folder(&self, path: &str) -> io::Result<()> {
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        for end in ends.filter(|end| !self.has_folder(&path[..*end])) {
            let Some((folder, name)) = self.parent(&path[..end])? else { return Err(ErrorKind::NotFound.into()) };
            mkdirat(&folder, name, Mode::from_bits_truncate(0o755))?;
        }
        Ok(())
    }

    /// Makes a file beside its path and renames it there, so that others see the old or the new one, and a full disk
    /// keeps the old one.
    fn replace(&self, path: &str, make: impl FnOnce(&OwnedFd, &str) -> io::Result<()>) -> io::Result<()> {
        let Some((folder, name)) = self.parent(path)? else { return Err(ErrorKind::NotFound.into()) };
        // With a dot in its name, because sudo reads every other file of /etc/sudoers.d as a part of its rules.
        let new = format!(".{name}.leapbox-new");
        // A machine that was ended in the middle of this may have left one behind.
        let _ = unlinkat(&folder, new.as_str(), UnlinkatFlags::NoRemoveDir);
        let replaced = make(&folder, &new).and_then(|()| Ok(renameat(&folder, new.as_str(), &folder, name)?));
        if replaced.is_err() {
            let _ = unlinkat(&folder, new.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        replaced
    }

    /// Opens the directory that a path is in, and returns it with the path's last part; `None` if it does not exist.
    fn parent<'a>(&self, path: &'a str) -> io::Result<Option<(OwnedFd, &'a str)>> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        match self.open_inside(folder, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            opened => Ok(Some((opened?, name))),
        }
    }

    fn open_inside(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let inside = path.trim_start_matches('/');
        let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        openat2(&self.root, if inside.is_empty() { "." } else { inside }, how)
    }
}

/// Reads a whole file; fails if it is not a regular file or is larger than [`MAX_FILE`].
fn read_regular(file: File) -> io::Result<Content> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "is not a regular file"));
    }
    if metadata.len() > MAX_FILE {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    // The guest may append to it while it is read, so the size above is no bound.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let attributes = Attributes { mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() };
    Ok(Content { bytes, attributes })
}
