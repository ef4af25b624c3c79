//! Looks up user and group names in the guest's own files, because a static binary has no name service switch (nss(5)).

use std::collections::BTreeMap;
use std::path::Path;

/// User and group names by id, as the files had them when this was read.
pub(crate) struct Names {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Names {
    /// Reads `/etc/passwd` and `/etc/group`. A file that cannot be read counts as empty.
    pub(crate) fn read() -> Self {
        Self { users: ids("/etc/passwd"), groups: ids("/etc/group") }
    }

    /// Returns a user's name, or the uid in digits if it has none.
    pub(crate) fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// Returns a group's name, or the gid in digits if it has none.
    pub(crate) fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }
}

/// Reads names by id from a file in the format of passwd(5) or group(5): both start with name, password, id.
fn ids(path: &str) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    // Of several lines with one id the first counts, as in the C library.
    for line in lines(Path::new(path)).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok())) {
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// Finds the login shell of a uid in a file in the format of passwd(5).
pub(crate) fn login_shell(passwd: &Path, uid: u32) -> Option<String> {
    lines(passwd).lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [_, _, id, _, _, _, shell] if id.parse() == Ok(uid) && !shell.is_empty() => Some((*shell).to_owned()),
            _ => None,
        }
    })
}

/// Bytes read of such a file. The guest's root may have made it as large as its disk, and the agent holds it in memory.
const READ_AT_MOST: u64 = 1 << 20;

fn lines(path: &Path) -> String {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut bytes = Vec::new();
    // O_NONBLOCK, because opening a FIFO that the guest's root has put in the file's place would wait for ever.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    if let Ok(file) = opened {
        // The lines read before an error are still right.
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
