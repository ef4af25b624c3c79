//! Turns a freshly installed root into an image: removes what comes from this host and what all clones would share, and
//! adds the configuration that the agent reads.

use super::recipe::Recipe;
use crate::debian_archive::PUBLIC_SOURCES;
use crate::error::ArtifactError;
use leapbox_errors::FileError;
use leapbox_guest_protocol::ImageConfig;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::num::ParseIntError;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The directory in the image from which the agent reads the image's configuration.
const CONFIG_DIR: &str = ".leapbox";
/// Files that the build leaves: settings of the host, backups, locks, caches and identities.
const REMOVED: [&str; 14] = [
    "etc/apt/sources.list",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "etc/.pwd.lock",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/available-old",
];
/// Directories whose contents the build leaves. They stay themselves, because programs expect them.
const EMPTIED: [&str; 9] = [
    "dev",
    "run",
    "tmp",
    "var/tmp",
    "var/backups",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/cache/debconf",
    "etc/apt/sources.list.d",
];
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tsandbox\n";

/// Finishes the root in `tree` and returns the image's configuration.
pub(super) fn finish(recipe: &Recipe, tree: &Path) -> Result<ImageConfig, ArtifactError> {
    clean(tree)?;
    write(tree, "etc/apt/sources.list.d/debian.sources", PUBLIC_SOURCES, 0o644)?;
    write(tree, "etc/hostname", "sandbox\n", 0o644)?;
    write(tree, "etc/hosts", HOSTS, 0o644)?;
    // The agent writes it at boot; mmdebstrap has copied the host's.
    write(tree, "etc/resolv.conf", "", 0o644)?;
    // Empty, so that every sandbox gets an id of its own from the agent.
    write(tree, "etc/machine-id", "", 0o444)?;
    // The user has no password and may be root in the sandbox: what confines it is the virtual machine.
    let sudoers = format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", recipe.user);
    write(tree, "etc/sudoers.d/leapbox", &sudoers, 0o440)?;
    // dpkg's options of excluded files stay in force in the sandbox. Their file gets a name that says what it is.
    rename_if_there(tree, "etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/leapbox-slim")?;
    fix_password_dates(tree)?;

    let image = image_config(recipe, tree)?;
    for folder in recipe.folders {
        let path = tree.join(folder);
        make_dir(&path, 0o755)?;
        chown(&path, Some(image.uid), Some(image.gid)).map_err(FileError::of("changing the owner of", &path))?;
    }
    make_dir(&tree.join(CONFIG_DIR), 0o755)?;
    super::write_image_config(&image, &tree.join(CONFIG_DIR).join("image.json"))?;
    Ok(image)
}

fn clean(tree: &Path) -> Result<(), ArtifactError> {
    for name in REMOVED {
        let path = tree.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(FileError::of("removing", &path)(e).into()),
            _ => {}
        }
    }
    for name in EMPTIED {
        empty(&tree.join(name))?;
    }
    for (name, mode) in [("tmp", 0o1777), ("var/tmp", 0o1777), ("proc", 0o555), ("sys", 0o555)] {
        make_dir(&tree.join(name), mode)?;
    }
    // apt expects its directories to exist.
    make_dir(&tree.join("var/lib/apt/lists/partial"), 0o700)?;
    make_dir(&tree.join("var/cache/apt/archives/partial"), 0o700)?;
    make_dir(&tree.join("run/lock"), 0o1777)?;
    // Files alone: services expect their directories in /var/log, with owners and modes.
    for_each(&tree.join("var/log"), &mut |path, meta| if meta.is_file() { fs::remove_file(path) } else { Ok(()) })
}

/// Removes everything in a directory and keeps the directory with its owner and mode.
fn empty(dir: &Path) -> Result<(), ArtifactError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(FileError::of("listing", dir)(e).into()),
    };
    for entry in entries.flatten() {
        let (path, is_dir) = (entry.path(), entry.file_type().is_ok_and(|t| t.is_dir()));
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(FileError::of("removing", &path))?;
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> Result<(), ArtifactError> {
    let make = || fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
    Ok(make().map_err(FileError::of("creating in the image", path))?)
}

fn write(tree: &Path, name: &str, text: &str, mode: u32) -> Result<(), ArtifactError> {
    let path = tree.join(name);
    // Removed first, because it may be a symbolic link: writing through an absolute one would change a file of the
    // host.
    let _ = fs::remove_file(&path);
    let write = || fs::write(&path, text).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)));
    Ok(write().map_err(FileError::of("writing into the image", &path))?)
}

fn rename_if_there(tree: &Path, from: &str, to: &str) -> Result<(), ArtifactError> {
    let from = tree.join(from);
    match fs::rename(&from, tree.join(to)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::of("renaming in the image", &from)(e).into()),
        _ => Ok(()),
    }
}

/// Replaces the days of last password changes in `etc/shadow` by a fixed one.
fn fix_password_dates(tree: &Path) -> Result<(), ArtifactError> {
    let path = tree.join("etc/shadow");
    let text = fs::read_to_string(&path).map_err(FileError::of("reading", &path))?;
    let fixed = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        // The third field is in days since 1970 (shadow(5)), and useradd has put in today: the same packages would give
        // another image tomorrow.
        if let Some(date) = fields.get_mut(2) {
            *date = "19000";
        }
        fields.join(":") + "\n"
    };
    let text: String = text.lines().map(fixed).collect();
    Ok(fs::write(&path, text).map_err(FileError::of("writing", &path))?)
}

/// The configuration of the image, with the numbers of its user and groups as they are in the image.
fn image_config(recipe: &Recipe, tree: &Path) -> Result<ImageConfig, ArtifactError> {
    let missing = |what: String| ArtifactError::RootfsIncomplete { template: recipe.name.to_owned(), what };
    let read = |name: &str| {
        let path = tree.join(name);
        fs::read_to_string(&path).map_err(FileError::of("reading", &path))
    };
    let passwd = read("etc/passwd")?;
    let user: Vec<&str> = passwd
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.len() >= 7 && f[0] == recipe.user)
        .ok_or_else(|| missing(format!("user {}", recipe.user)))?;
    let number =
        |text: &str| text.parse().map_err(|_: ParseIntError| missing(format!("numeric ids for {}", recipe.user)));
    let (uid, gid) = (number(user[2])?, number(user[3])?);
    for dir in [user[5], recipe.workdir] {
        if !tree.join(dir.trim_start_matches('/')).is_dir() {
            return Err(missing(format!("directory {dir}")));
        }
    }
    Ok(ImageConfig {
        user: recipe.user.to_owned(),
        uid,
        gid,
        groups: groups_of(recipe.user, &read("etc/group")?),
        home: user[5].to_owned(),
        workdir: recipe.workdir.to_owned(),
        env: recipe.env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        port: recipe.port,
    })
}

/// The ids of a user's supplementary groups, from the text of `etc/group` (group(5)).
fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let of_line = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let (gid, members) = (fields.next()?.parse().ok()?, fields.next()?);
        members.split(',').any(|m| m == user).then_some(gid)
    };
    group.lines().filter_map(of_line).collect()
}

/// Calls `visit` for everything below `dir`, without following links.
fn for_each(
    dir: &Path,
    visit: &mut impl FnMut(&Path, &fs::Metadata) -> std::io::Result<()>,
) -> Result<(), ArtifactError> {
    let entries = fs::read_dir(dir).map_err(FileError::of("listing", dir))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let meta = entry.metadata().map_err(FileError::of("looking at", &path))?;
        if meta.is_dir() {
            for_each(&path, visit)?;
        }
        visit(&path, &meta).map_err(FileError::of("cleaning up", &path))?;
    }
    Ok(())
}

/// The latest modification time in `tree` that lies before `limit`, in Unix seconds.
pub(super) fn newest_before(tree: &Path, limit: SystemTime) -> Result<i64, ArtifactError> {
    let limit = limit.duration_since(UNIX_EPOCH).map_or(i64::MAX, |d| d.as_secs() as i64);
    let mut newest = 0;
    for_each(tree, &mut |_, meta| {
        // The build's own files may be dated in the second in which it began, or in the one before, because file times
        // come from the kernel's coarse clock.
        if meta.mtime() < limit - 1 {
            newest = newest.max(meta.mtime());
        }
        Ok(())
    })?;
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supplementary_groups_are_read_from_the_image() {
        let group = "root:x:0:\nsudo:x:27:admin,user\nusers:x:100:userx\nuser:x:1000:\n";
        assert_eq!(groups_of("user", group), [27]);
    }

    #[test]
    fn files_of_the_build_itself_do_not_date_the_image() {
        let dir = tempfile::tempdir().expect("temp dir");
        let old = dir.path().join("packaged");
        fs::write(&old, "").expect("write");
        fs::write(dir.path().join("built"), "").expect("write");
        let file = fs::File::options().write(true).open(&old).expect("open");
        file.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000)).expect("date");
        assert_eq!(newest_before(dir.path(), SystemTime::now()).expect("walk"), 1_600_000_000);
    }

    #[test]
    fn a_file_that_is_a_link_out_of_the_tree_is_replaced_not_followed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (outside, tree) = (dir.path().join("outside"), dir.path().join("tree"));
        fs::create_dir(&tree).expect("mkdir");
        fs::write(&outside, "untouched").expect("write");
        std::os::unix::fs::symlink(&outside, tree.join("link")).expect("symlink");
        write(&tree, "link", "new", 0o644).expect("write");
        assert_eq!(fs::read_to_string(outside).expect("read"), "untouched");
    }
}
