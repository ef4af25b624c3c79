//! User and group names, read from the guest's own files (a static binary has no name service switch).

use std::collections::BTreeMap;
use std::path::Path;

/// Names by id, as they were when this was read.
pub(crate) struct Names {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Names {
    /// Reads `/etc/passwd` and `/etc/group`. Files that can't be read have no names in them.
    pub(crate) fn read() -> Self {
        Self { users: ids("/etc/passwd"), groups: ids("/etc/group") }
    }

    /// A user's name, or the digits of the uid.
    pub(crate) fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// A group's name, or the digits of the gid.
    pub(crate) fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }
}

/// `passwd` and `group` both start with name, password, id. The first line with an id wins, as in the C library.
fn ids(path: &str) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for line in lines(Path::new(path)).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok())) {
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// The login shell of a user id, from a `passwd` file.
pub(crate) fn login_shell(passwd: &Path, uid: u32) -> Option<String> {
    lines(passwd).lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [_, _, id, _, _, _, shell] if id.parse() == Ok(uid) && !shell.is_empty() => Some((*shell).to_owned()),
            _ => None,
        }
    })
}

/// A guest's file is the workload's to write: only so much of it is looked at.
const READ_AT_MOST: u64 = 1 << 20;

fn lines(path: &Path) -> String {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut bytes = Vec::new();
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    if let Ok(file) = opened {
        // What could be read before an error is still true.
        let _ = file.take(READ_AT_MOST).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_shell_is_found_by_uid() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let text = "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/zsh\n";
        std::fs::write(file.path(), text).expect("writes");
        assert_eq!(login_shell(file.path(), 1000).as_deref(), Some("/bin/zsh"));
        assert_eq!(login_shell(file.path(), 7), None);
    }

    #[test]
    fn an_unknown_id_is_shown_in_digits() {
        let names = Names { users: BTreeMap::new(), groups: BTreeMap::new() };
        assert_eq!((names.user(77).as_str(), names.group(78).as_str()), ("77", "78"));
    }
}
