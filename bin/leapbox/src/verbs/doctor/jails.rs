//! Checks the directory in which jails are made, below the state directory: who could plant something there, whether
//! the file system lets a jail work, and whether artifacts can be linked into it.

use super::check::Check;
use super::mounts::{Mount, Mounts};
use leapbox_vmm::binaries::{Untrusted, resolve};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The uid that must own every directory above a jail.
const ROOT_UID: u32 = 0;

pub(super) fn checks(state_dir: &Path, artifacts_dir: &Path, root: &Path) -> Vec<Check> {
    checks_owned(state_dir, artifacts_dir, root, ROOT_UID)
}

fn checks_owned(state_dir: &Path, artifacts_dir: &Path, root: &Path, owner: u32) -> Vec<Check> {
    // The directory may not exist yet. It will be made in the innermost of its parents that exists, which is looked at
    // then.
    let Some(jails) = Directory::of(&state_dir.join("machines"), root, owner) else {
        return vec![Check::red("jail directory", format!("{} cannot be read", state_dir.display()), "run as root")];
    };
    let mounts = Mounts::read(root);
    let mut checks = vec![ownership(&jails)];
    if let Some(mount) = mounts.holding(&jails.path) {
        checks.push(options(mount));
        let artifacts = Directory::of(artifacts_dir, root, owner);
        checks.extend(artifacts.map(|artifacts| links(&jails, &artifacts, mount, &mounts)));
    }
    checks
}

/// A directory, or the innermost one above it that exists.
struct Directory {
    /// The path on the host, with symbolic links resolved.
    path: PathBuf,
    untrusted: Vec<Untrusted>,
    device: u64,
}

impl Directory {
    fn of(dir: &Path, root: &Path, owner: u32) -> Option<Self> {
        let dir = std::path::absolute(dir).ok()?;
        let (end, untrusted) = dir.ancestors().find_map(|path| resolve(root, path, owner).ok())?;
        let device = std::fs::metadata(&end).ok()?.dev();
        let path = Path::new("/").join(end.strip_prefix(root).ok()?);
        Some(Self { path, untrusted, device })
    }
}

/// Whether anybody but root can change a directory above the jails.
fn ownership(jails: &Directory) -> Check {
    const NAME: &str = "jail directory";
    if jails.untrusted.is_empty() {
        return Check::green(NAME, format!("{} and all above it are writable by root alone", jails.path.display()));
    }
    // The jailer writes as root and follows symbolic links (CVE-2026-1386 among others); Firecracker's docs/jailer.md
    // takes every path that it is given to be trusted.
    let weak: Vec<_> = jails.untrusted.iter().map(ToString::to_string).collect();
    let found = format!("others could put links where the jailer writes as root: {}", weak.join(", "));
    Check::red(NAME, found, "chown root, and chmod go-w, each of them; or give another --data-dir")
}

fn options(mount: &Mount) -> Check {
    const NAME: &str = "jail mount";
    let refuses = [("nodev", "/dev/kvm cannot be opened in a jail"), ("noexec", "firecracker cannot be run in a jail")];
    let lost: Vec<_> = refuses.iter().filter(|(option, _)| mount.has(option)).collect();
    let shown = mount.point.display();
    if lost.is_empty() {
        return Check::green(NAME, format!("{shown} ({}) lets jails have devices and programs", mount.kind));
    }
    let options: Vec<_> = lost.iter().map(|(option, _)| *option).collect();
    let consequences: Vec<_> = lost.iter().map(|(_, consequence)| *consequence).collect();
    let found = format!("{shown} is mounted {}: {}", options.join(","), consequences.join(", "));
    let without: Vec<_> = options.iter().map(|option| option.trim_start_matches("no")).collect();
    let advice =
        format!("mount -o remount,{} {shown}, and in /etc/fstab; or give another --data-dir", without.join(","));
    Check::red(NAME, found, advice)
}

fn links(jails: &Directory, artifacts: &Directory, mount: &Mount, mounts: &Mounts) -> Check {
    const NAME: &str = "artifacts' mount";
    // Both the mount and the device: link(2) fails between two mounts of one file system as well.
    let together = mounts.holding(&artifacts.path).is_some_and(|other| other.is(mount));
    if together && jails.device == artifacts.device {
        return Check::green(NAME, "on one file system with the jails, into which they are linked");
    }
    let found = format!(
        "{} is on another file system than {}: kernel and root file systems cannot be linked into jails, and a copy of \
         each is made beside them at its first use",
        artifacts.path.display(),
        jails.path.display()
    );
    Check::yellow(NAME, found, "put both on one file system: --artifacts-dir in the data directory (the default)")
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::super::fake_host::{chmod, host};
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    const STATE: &str = "var/lib/leapbox/state/instance";
    const ARTIFACTS: &str = "var/lib/leapbox/artifacts/current.json";

    fn mounted(data: &str) -> TempDir {
        let mountinfo = format!("20 1 8:1 / / rw - ext4 /dev/sda1 rw\n{data}");
        host(&[(STATE, "beef"), (ARTIFACTS, "{}"), ("proc/self/mountinfo", &mountinfo)])
    }

    fn found(root: &TempDir) -> Vec<Check> {
        let data = Path::new("/var/lib/leapbox");
        let own_uid = nix::unistd::geteuid().as_raw();
        checks_owned(&data.join("state"), &data.join("artifacts"), root.path(), own_uid)
    }

    fn levels(root: &TempDir) -> Vec<Level> {
        found(root).into_iter().map(|c| c.level).collect()
    }

    #[test]
    fn jails_below_folders_of_roots_alone_on_one_file_system_are_green() {
        assert_eq!(levels(&mounted("")), [Level::Green; 3]);
    }

    #[test]
    fn a_folder_above_the_jails_that_others_may_write_into_is_red() {
        let root = mounted("");
        chmod(&root, "var/lib", 0o777);
        let found = found(&root);
        assert_eq!(found[0].level, Level::Red);
        assert!(found[0].found.contains("/var/lib can be written by others"), "{found:?}");
    }

    #[test]
    fn a_mount_without_devices_or_programs_is_red_and_says_how_to_change_it() {
        let root = mounted("30 20 8:2 / /var/lib rw,nosuid,nodev,noexec - ext4 /dev/sda2 rw\n");
        let found = found(&root);
        assert_eq!(found[1].level, Level::Red);
        let advice = found[1].advice.as_deref().unwrap_or_default();
        assert!(advice.starts_with("mount -o remount,dev,exec /var/lib,"), "{advice}");
    }

    #[test]
    fn artifacts_on_another_mount_are_yellow_because_they_are_copied() {
        let root = mounted("30 20 8:1 /elsewhere /var/lib/leapbox/artifacts rw - ext4 /dev/sda1 rw\n");
        assert_eq!(levels(&root), [Level::Green, Level::Green, Level::Yellow]);
    }

    #[test]
    fn the_place_behind_a_link_is_what_counts() {
        let root = mounted("30 20 8:2 / /srv rw,nodev - ext4 /dev/sda2 rw\n");
        std::fs::rename(root.path().join("var/lib"), root.path().join("srv")).expect("rename");
        symlink("/srv", root.path().join("var/lib")).expect("symlink");
        assert_eq!(levels(&root), [Level::Green, Level::Red, Level::Green]);
    }

    #[test]
    fn a_state_folder_that_is_not_there_yet_is_judged_by_its_parents() {
        let root = host(&[("proc/self/mountinfo", "20 1 8:1 / / rw,nodev - ext4 /dev/sda1 rw\n")]);
        assert_eq!(levels(&root), [Level::Green, Level::Red, Level::Green]);
    }
}
