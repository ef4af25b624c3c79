//! Control groups. Each VMM has one of its own, which limits its memory, tasks and CPU time, and through which all its
//! processes are found and killed.
//!
//! Version 2 is used in full. On hosts with version 1 hierarchies the mounted controllers are used; the `unified`
//! hierarchy beside them has no controllers but can still list and kill a group. [`Cgroups::missing`] names the limits
//! that a host does not enforce; `leapbox doctor` shows them.

use crate::error::VmmError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The limits of one group.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of memory, with the page cache and the kernel memory that the kernel charges to the group.
    pub memory_bytes: u64,
    /// Processes and threads together, as the `pids` controller counts them.
    pub tasks: u32,
    /// CPU time per wall time, in whole CPUs.
    pub cpus: u32,
}

/// The period of the CPU quota in microseconds; it is the kernel's default.
const PERIOD_US: u64 = 100_000;
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// The parent groups of one installation, in every hierarchy of the host that is used.
#[derive(Debug, Clone)]
pub struct Cgroups {
    /// The parent in the version 2 hierarchy (pure, or `unified` beside version 1).
    unified: Option<PathBuf>,
    /// Whether that hierarchy enforces all of [`CONTROLLERS`].
    v2_controllers: bool,
    /// The parents in version 1 hierarchies, with the controller of each.
    v1: Vec<(&'static str, PathBuf)>,
}

impl Cgroups {
    /// Finds the host's hierarchies under `mount` (`/sys/fs/cgroup`) and makes this installation's parent groups.
    pub fn open(mount: &Path, instance: &str) -> Self {
        let parent = format!("leapbox-{instance}");
        // Only the root of a version 2 hierarchy has this file; with version 1, `mount` is a tmpfs of hierarchies.
        if mount.join("cgroup.controllers").exists() {
            return Self::open_v2(mount, &parent);
        }
        let unified = mount.join("unified");
        let make = |hierarchy: PathBuf| {
            let dir = hierarchy.join(&parent);
            (hierarchy.is_dir() && make_dir(&dir).is_ok()).then_some(dir)
        };
        let v1 = CONTROLLERS.into_iter().filter_map(|name| Some((name, make(mount.join(name))?))).collect();
        Self { unified: make(unified), v2_controllers: false, v1 }
    }

    /// Opens the host's own hierarchies; an error if no group can be made in any of them.
    pub(crate) fn for_machines(instance: &str) -> Result<Self, VmmError> {
        let cgroups = Self::open(Path::new("/sys/fs/cgroup"), instance);
        // A missing limit is tolerated and reported; a missing group is not. After a crash of the server the group is
        // what finds and ends the processes of a machine.
        if cgroups.can_hold() {
            return Ok(cgroups);
        }
        let hint = "mount the cgroup hierarchy read-write: without it a machine's processes cannot be found and ended";
        Err(VmmError::Missing { what: "a writable /sys/fs/cgroup".to_owned(), hint: hint.to_owned() })
    }

    fn open_v2(mount: &Path, parent: &str) -> Self {
        let wanted = "+memory +pids +cpu";
        let dir = mount.join(parent);
        // A group has a controller's files only if its parent enables the controller for its children, and the parent
        // can do so only if its own parent has: from the top down (cgroup-v2, "Top-down Constraint").
        let delegated = fs::write(mount.join("cgroup.subtree_control"), wanted).is_ok();
        let made = make_dir(&dir).is_ok();
        let enabled = delegated && made && fs::write(dir.join("cgroup.subtree_control"), wanted).is_ok();
        Self { unified: made.then_some(dir), v2_controllers: enabled, v1: Vec::new() }
    }

    /// Removes this installation's parent groups, unless machines still live in them.
    pub fn remove_if_empty(&self) {
        for dir in self.unified.iter().chain(self.v1.iter().map(|(_, dir)| dir)) {
            // The kernel refuses to remove a group with children: machines outlive the server and keep theirs.
            let _ = fs::remove_dir(dir);
        }
    }

    /// Whether at least one hierarchy can hold a machine's group.
    pub fn can_hold(&self) -> bool {
        self.unified.is_some() || !self.v1.is_empty()
    }

    /// Names the controllers whose limits are not enforced on this host.
    pub fn missing(&self) -> Vec<&'static str> {
        let has = |name: &str| self.v2_controllers || self.v1.iter().any(|(controller, _)| *controller == name);
        CONTROLLERS.into_iter().filter(|name| !has(name)).collect()
    }

    /// Makes the group `name` in every hierarchy and sets its limits, before any process is in it.
    pub fn create(&self, name: &str, limits: Limits) -> io::Result<Cgroup> {
        let group = self.named(name);
        for dir in &group.dirs {
            make_dir(dir)?;
        }
        let cpu_us = u64::from(limits.cpus) * PERIOD_US;
        if let (true, Some(dir)) = (self.v2_controllers, self.unified.as_ref().map(|d| d.join(name))) {
            fs::write(dir.join("memory.max"), limits.memory_bytes.to_string())?;
            fs::write(dir.join("pids.max"), limits.tasks.to_string())?;
            fs::write(dir.join("cpu.max"), format!("{cpu_us} {PERIOD_US}"))?;
        }
        for (controller, parent) in &self.v1 {
            let (file, value) = match *controller {
                "memory" => ("memory.limit_in_bytes", limits.memory_bytes),
                "pids" => ("pids.max", u64::from(limits.tasks)),
                // Version 1 has the period in a file of its own, which keeps its default: `PERIOD_US`.
                _ => ("cpu.cfs_quota_us", cpu_us),
            };
            fs::write(parent.join(name).join(file), value.to_string())?;
        }
        Ok(group)
    }

    /// Returns the handle of the group `name`, whether that exists or not.
    pub fn named(&self, name: &str) -> Cgroup {
        let parents = self.unified.iter().chain(self.v1.iter().map(|(_, dir)| dir));
        Cgroup { dirs: parents.map(|dir| dir.join(name)).collect() }
    }

    /// Lists the names of all groups this installation has on the host, also those that a previous server made.
    pub fn names(&self) -> Vec<String> {
        let parents = self.unified.iter().chain(self.v1.iter().map(|(_, dir)| dir));
        let mut names: Vec<String> = parents
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// One group: a directory of the same name in every hierarchy in use.
#[derive(Debug, Clone)]
pub struct Cgroup {
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    /// Paths of the group's `cgroup.procs` files. A process joins by writing `0` into each.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    /// Opens the files of [`Cgroup::procs_files`] for a child that can only write between fork and exec, not open.
    pub(crate) fn open_procs(&self) -> io::Result<Vec<fs::File>> {
        self.procs_files().iter().map(|file| fs::File::options().write(true).open(file)).collect()
    }

    /// Whether the kernel has killed a process of the group because of the group's memory limit.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        // The first is version 2's, the second version 1's; both are lines of a name and a number.
        let counts = ["memory.events", "memory.oom_control"];
        let files = self.dirs.iter().flat_map(|dir| counts.map(|name| dir.join(name)));
        files.filter_map(|file| fs::read_to_string(file).ok()).any(|text| {
            // With the space, because version 1 has a line `oom_kill_disable 0` as well.
            let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            kills.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 0)
        })
    }

    /// Whether somebody has frozen the group or one above it.
    pub(crate) fn is_frozen(&self) -> bool {
        // Version 2 alone: of a process that version 1 has frozen the kernel says that it is in uninterruptible sleep.
        self.dirs.iter().any(|dir| {
            // `cgroup.freeze` is the group's own setting, in force or not yet. `cgroup.events` also shows that of the
            // groups above it.
            let ordered = fs::read_to_string(dir.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1");
            let events = || fs::read_to_string(dir.join("cgroup.events"));
            ordered || events().is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
        })
    }

    /// Kills every process in the group.
    pub fn kill(&self) {
        // Version 2 has this file since Linux 5.14. It also kills what the group forks meanwhile, which signals to the
        // processes of a list miss.
        for dir in &self.dirs {
            if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
                return;
            }
        }
        for pid in self.pids() {
            // The only likely error is ESRCH, and a process that has ended needs no signal.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Lists the ids of the group's processes in the host's pid namespace, in ascending order.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .procs_files()
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok())
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Whether the group has processes. One that cannot be read counts as having some.
    pub fn may_have_processes(&self) -> bool {
        self.procs_files().iter().any(|file| match fs::read_to_string(file) {
            Ok(text) => !text.trim().is_empty(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        })
    }

    /// Removes the group. It is no error if the group does not exist; it is one if the group has processes.
    pub fn remove(&self) -> io::Result<()> {
        for dir in &self.dirs {
            match fs::remove_dir(dir) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_made_listed_killed_and_removed() {
        let cgroups = Cgroups::open(Path::new("/sys/fs/cgroup"), &format!("t{}", std::process::id()));
        let group = cgroups
            .create("one", Limits { memory_bytes: 64 << 20, tasks: 8, cpus: 1 })
            .expect("this host lets root make groups");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        for file in group.procs_files() {
            fs::write(file, child.id().to_string()).expect("joined");
        }
        assert_eq!(group.pids(), vec![child.id() as i32]);
        assert_eq!(cgroups.names(), vec!["one".to_owned()]);

        assert!(!group.ran_out_of_memory() && !group.is_frozen());
        // Only version 2 has the file.
        for freeze in group.dirs.iter().map(|dir| dir.join("cgroup.freeze")).filter(|file| file.exists()) {
            fs::write(&freeze, "1").expect("frozen");
            assert!(group.is_frozen());
            fs::write(&freeze, "0").expect("thawed");
        }
        group.kill();
        assert!(!child.wait().expect("reaped").success());
        group.remove().expect("empty groups can go");
        group.remove().expect("twice is fine");
        assert!(cgroups.names().is_empty());
        cgroups.remove_if_empty();
        for dir in cgroups.unified.iter().chain(cgroups.v1.iter().map(|(_, dir)| dir)) {
            assert!(!dir.exists(), "{} is left", dir.display());
        }
    }

    #[test]
    fn a_process_that_takes_more_memory_than_its_group_allows_is_told_apart() {
        let cgroups = Cgroups::open(Path::new("/sys/fs/cgroup"), &format!("m{}", std::process::id()));
        if cgroups.missing().contains(&"memory") {
            // Such a host enforces no limit that could be hit; `doctor` says so.
            cgroups.remove_if_empty();
            return;
        }
        let limits = Limits { memory_bytes: 32 << 20, tasks: 8, cpus: 1 };
        let group = cgroups.create("hog", limits).expect("this host lets root make groups");
        let join = group.procs_files().iter().map(|file| format!("echo 0 >{};", file.display())).collect::<String>();
        let hog = format!("{join} exec python3 -c 'b = bytearray(256 << 20)'");
        let status = std::process::Command::new("sh").args(["-c", &hog]).status().expect("it runs");
        assert!(!status.success() && group.ran_out_of_memory(), "{status}");
        group.remove().expect("empty groups can go");
        cgroups.remove_if_empty();
    }

    #[test]
    fn a_host_without_hierarchies_says_what_is_not_enforced() {
        let empty = tempfile::tempdir().expect("a folder");
        let cgroups = Cgroups::open(empty.path(), "t");
        assert_eq!(cgroups.missing(), vec!["memory", "pids", "cpu"]);
        assert!(cgroups.named("x").procs_files().is_empty());
    }
}
