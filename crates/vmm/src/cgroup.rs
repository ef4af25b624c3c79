//! Control groups: what one VMM may use, and the sure way to find and end all its processes.
//!
//! Version 2 is used in full. On hosts with the version 1 hierarchies, a controller that is mounted is used; the
//! `unified` hierarchy beside them has no controllers but can still list and kill a group. What is not enforced is
//! in [`Cgroups::missing`], which `doctor` shows.

use crate::error::VmmError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Limits of one group.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Memory in bytes, everything counted.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub tasks: u32,
    /// CPU time per wall time, in whole CPUs.
    pub cpus: u32,
}

/// CPU quota period, in microseconds (the kernel's default).
const PERIOD_US: u64 = 100_000;
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Where this installation's groups live.
#[derive(Debug, Clone)]
pub struct Cgroups {
    /// The version 2 hierarchy (pure, or `unified` beside version 1).
    unified: Option<PathBuf>,
    /// Version 2 with its controllers.
    v2_controllers: bool,
    /// Version 1 hierarchies by controller.
    v1: Vec<(&'static str, PathBuf)>,
}

impl Cgroups {
    /// Finds the host's hierarchies under `mount` (`/sys/fs/cgroup`) and makes this installation's parent groups.
    pub fn open(mount: &Path, instance: &str) -> Self {
        let parent = format!("leapbox-{instance}");
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

    /// The host's own hierarchies, where this installation's machines go; an error if they can't be grouped at all.
    pub(crate) fn for_machines(instance: &str) -> Result<Self, VmmError> {
        let cgroups = Self::open(Path::new("/sys/fs/cgroup"), instance);
        if cgroups.can_hold() {
            return Ok(cgroups);
        }
        let hint = "mount the cgroup hierarchy read-write: without it a machine could not be found and ended";
        Err(VmmError::Missing { what: "a writable /sys/fs/cgroup".to_owned(), hint: hint.to_owned() })
    }

    fn open_v2(mount: &Path, parent: &str) -> Self {
        let wanted = "+memory +pids +cpu";
        let dir = mount.join(parent);
        let delegated = fs::write(mount.join("cgroup.subtree_control"), wanted).is_ok();
        let made = make_dir(&dir).is_ok();
        let enabled = delegated && made && fs::write(dir.join("cgroup.subtree_control"), wanted).is_ok();
        Self { unified: made.then_some(dir), v2_controllers: enabled, v1: Vec::new() }
    }

    /// Removes this installation's parent groups, unless machines still live in them.
    pub fn remove_if_empty(&self) {
        for dir in self.unified.iter().chain(self.v1.iter().map(|(_, dir)| dir)) {
            // A group that still has groups in it refuses, and is in use.
            let _ = fs::remove_dir(dir);
        }
    }

    /// Whether processes can be grouped at all.
    pub fn can_hold(&self) -> bool {
        self.unified.is_some() || !self.v1.is_empty()
    }

    /// Controllers whose limits are not enforced on this host.
    pub fn missing(&self) -> Vec<&'static str> {
        let has = |name: &str| self.v2_controllers || self.v1.iter().any(|(controller, _)| *controller == name);
        CONTROLLERS.into_iter().filter(|name| !has(name)).collect()
    }

    /// Makes the group `name` with its limits.
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
                _ => ("cpu.cfs_quota_us", cpu_us),
            };
            fs::write(parent.join(name).join(file), value.to_string())?;
        }
        Ok(group)
    }

    /// The group `name`, whether it exists or not.
    pub fn named(&self, name: &str) -> Cgroup {
        let parents = self.unified.iter().chain(self.v1.iter().map(|(_, dir)| dir));
        Cgroup { dirs: parents.map(|dir| dir.join(name)).collect() }
    }

    /// Names of all groups this installation has on the host.
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

/// One group over all hierarchies in use.
#[derive(Debug, Clone)]
pub struct Cgroup {
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    /// The files a process writes `0` into to join.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    /// The same files, open.
    pub(crate) fn open_procs(&self) -> io::Result<Vec<fs::File>> {
        self.procs_files().iter().map(|file| fs::File::options().write(true).open(file)).collect()
    }

    /// Whether the kernel has ended a process of the group for the group's memory limit.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        // Version 2, version 1: lines of a name and a number.
        let counts = ["memory.events", "memory.oom_control"];
        let files = self.dirs.iter().flat_map(|dir| counts.map(|name| dir.join(name)));
        files.filter_map(|file| fs::read_to_string(file).ok()).any(|text| {
            let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            kills.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 0)
        })
    }

    /// Kills every process in the group.
    pub fn kill(&self) {
        for dir in &self.dirs {
            if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
                return;
            }
        }
        for pid in self.pids() {
            // A process that is gone already is what we want.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Process ids in the group.
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

    /// Removes the empty group. A group that is gone is fine; one with processes is an error.
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

        assert!(!group.ran_out_of_memory());
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
