//! Reads the host's mounts from /proc/self/mountinfo (proc_pid_mountinfo(5)). Called by `jails` and `kvm`.

use super::read;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A mount: its mount point, and the type of its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    pub(super) kind: String,
    id: u32,
    options: Vec<String>,
}

impl Mount {
    /// Whether this option is set, for the mount or for its file system.
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }

    /// Whether both are the same mount: hard links do not cross mounts, even of one file system.
    pub(super) fn is(&self, other: &Mount) -> bool {
        self.id == other.id
    }
}

/// All mounts of this process's mount namespace, oldest first.
#[derive(Debug)]
pub(super) struct Mounts {
    mounts: Vec<Mount>,
}

impl Mounts {
    pub(super) fn read(root: &Path) -> Self {
        let text = read(root, "proc/self/mountinfo").unwrap_or_default();
        Self { mounts: text.lines().filter_map(parse).collect() }
    }

    /// Returns the mount that `path` is on. The path must be free of symbolic links.
    pub(super) fn holding(&self, path: &Path) -> Option<&Mount> {
        let holding = self.mounts.iter().filter(|m| path.starts_with(&m.point));
        // The deepest mount point. `max_by_key` takes the last of equal ones, and of several mounts on one point the
        // last is the visible one.
        holding.max_by_key(|m| m.point.components().count())
    }

    /// Returns the mounts of a type of file system.
    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(move |m| m.kind == kind)
    }
}

/// Parses a line like `27 1 254:0 / /var/lib rw,nodev - ext4 /dev/vda rw,discard`.
fn parse(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ');
    let id = front.next()?.parse().ok()?;
    let (point, own) = (front.nth(3)?, front.next()?);
    let mut back = back.split(' ');
    let (kind, _source, shared) = (back.next()?, back.next()?, back.next().unwrap_or_default());
    let options = own.split(',').chain(shared.split(',')).map(str::to_owned).collect();
    Some(Mount { point: unescaped(point), kind: kind.to_owned(), id, options })
}

/// Decodes a mount point, in which white space and backslashes are written as a backslash and three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (bytes[at], code) {
            (b'\\', Some(byte)) => {
                plain.push(byte);
                at += 4;
            }
            (byte, _) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::super::fake_host::host;
    use super::*;

    const MOUNTINFO: &str = "\
        27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
        40 27 254:1 / /var/lib rw,nodev shared:3 - xfs /dev/vdb rw\n\
        41 40 254:2 / /var/lib/my\\040data rw - ext4 /dev/vdc rw\n\
        42 40 254:3 / /var/lib/my\\040data rw,noexec - ext4 /dev/vdd rw\n\
        50 27 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,favordynmods\n";

    fn mounts() -> Mounts {
        Mounts::read(host(&[("proc/self/mountinfo", MOUNTINFO)]).path())
    }

    #[test]
    fn the_innermost_and_latest_mount_holds_a_path() {
        let mounts = mounts();
        let of = |path: &str| mounts.holding(Path::new(path)).expect("a mount");
        assert_eq!(of("/var/library").point, Path::new("/"));
        assert!(of("/var/lib/leapbox").has("nodev") && of("/var/lib/leapbox").kind == "xfs");
        assert!(of("/var/lib/my data/x").has("noexec"));
        assert!(!of("/var/lib/leapbox").is(of("/var/lib/my data")));
    }

    #[test]
    fn options_of_the_file_system_count_as_well() {
        assert!(mounts().of_kind("cgroup2").all(|m| m.has("favordynmods")));
        assert_eq!(mounts().of_kind("tmpfs").count(), 0);
    }
}
