//! Programs, files and libraries that this host must have, and the Debian packages that they come in.
//!
//! Called by `leapbox setup`, which installs missing ones where there is apt, and by `leapbox doctor`, which reports
//! them.

mod qemu;

pub use qemu::{QemuVersion, Soundness, installed_version};

use crate::host_command::{CommandError, HostCommand};
use crate::progress::Step;
use std::path::{Path, PathBuf};

/// The file by which a requirement is known to be installed, under whatever package manager: a program by its name, a
/// file by its path, or a shared library by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InstalledCheck {
    Program(&'static str),
    File(&'static str),
    Library(&'static str),
}

/// Who needs a requirement. `leapbox doctor` takes one that the server lacks for an error, the others for a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Only `leapbox setup` needs it.
    Build,
    /// The running server needs it.
    Run,
}

/// A program, file or library that the host needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    check: InstalledCheck,
    pub need: Need,
    /// The Debian package that contains it.
    pub package: &'static str,
    /// A few words for the operator, such as `makes the sandboxes' disks`.
    pub purpose: &'static str,
}

const fn to_run(check: InstalledCheck, package: &'static str, purpose: &'static str) -> Requirement {
    Requirement { check, need: Need::Run, package, purpose }
}

const fn to_build(check: InstalledCheck, package: &'static str, purpose: &'static str) -> Requirement {
    Requirement { check, need: Need::Build, package, purpose }
}

const QEMU: Requirement = to_run(InstalledCheck::Program("qemu-system-x86_64"), "qemu-system-x86", "runs the microVMs");

const ALWAYS: [Requirement; 15] = [
    to_run(InstalledCheck::Program("nft"), "nftables", "filters the sandboxes' traffic"),
    to_run(InstalledCheck::Program("mkfs.ext4"), "e2fsprogs", "makes the sandboxes' disks"),
    to_run(
        InstalledCheck::Library("libnss_myhostname.so.2"),
        "libnss-myhostname",
        "resolves *.localhost for every program",
    ),
    to_build(InstalledCheck::Program("ip"), "iproute2", "shows namespaces and taps to people"),
    to_build(InstalledCheck::Program("mmdebstrap"), "mmdebstrap", "builds the system template"),
    to_build(InstalledCheck::Program("mkfs.erofs"), "erofs-utils", "packs root file systems"),
    to_build(InstalledCheck::Program("depmod"), "kmod", "indexes the guest kernel's modules"),
    to_build(InstalledCheck::Program("dpkg-deb"), "dpkg", "unpacks the guest kernel"),
    to_build(InstalledCheck::Program("unshare"), "util-linux", "keeps builds apart from the host"),
    // Which of the four decompressors is needed depends on how the kernel's package was built.
    to_build(InstalledCheck::Program("gzip"), "gzip", "unpacks kernels"),
    to_build(InstalledCheck::Program("lz4"), "lz4", "unpacks kernels"),
    to_build(InstalledCheck::Program("xz"), "xz-utils", "unpacks kernels"),
    to_build(InstalledCheck::Program("zstd"), "zstd", "unpacks kernels"),
    to_build(
        InstalledCheck::File(crate::debian_archive::KEYRING),
        "debian-archive-keyring",
        "checks Debian's signatures",
    ),
    to_build(
        InstalledCheck::File("/etc/ssl/certs/ca-certificates.crt"),
        "ca-certificates",
        "lets clients trust the rest of the world besides the local CA",
    ),
];

/// The host's requirements could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum HostPackagesError {
    #[error("missing on this host, which has no apt-get to install it with: {}", list(missing))]
    NoApt { missing: Vec<Requirement> },
    /// apt-get failed to install packages, or to fetch the package lists.
    #[error("apt-get failed for {packages}")]
    Install {
        packages: String,
        #[source]
        source: CommandError,
    },
    /// A command that only asks apt for information failed.
    #[error("{step}")]
    Query {
        step: &'static str,
        #[source]
        source: CommandError,
    },
    /// apt's sources have no QEMU that is known to be sound; `offered` lists the versions that they have.
    #[error("apt offers no QEMU 7.2 (Debian bookworm's); offered: {offered}. Add Debian bookworm to the apt sources")]
    NoSoundQemu { offered: String },
    /// apt-get succeeded, but a requirement is still not found.
    #[error("still missing after apt-get install: {}", list(missing))]
    StillMissing { missing: Vec<Requirement> },
}

fn list(missing: &[Requirement]) -> String {
    let one = |r: &Requirement| format!("{} (Debian package {}: {})", r.name(), r.package, r.purpose);
    missing.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Requirement {
    /// The name or path that is looked for.
    pub fn name(&self) -> &'static str {
        match self.check {
            InstalledCheck::Program(name) | InstalledCheck::File(name) | InstalledCheck::Library(name) => name,
        }
    }

    fn is_met(&self) -> bool {
        match self.check {
            InstalledCheck::Program(name) => find_program(name).is_some(),
            InstalledCheck::File(path) => Path::new(path).exists(),
            InstalledCheck::Library(name) => has_library(name),
        }
    }
}

/// Finds a program in PATH or in one of the system's own directories.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // The PATH of a user, or of a service, often lacks the sbin directories, in which nft and mkfs.ext4 are.
    let own = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(own).map(|dir| dir.join(name)).find(|p| p.is_file())
}

fn has_library(name: &str) -> bool {
    let roots = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"].map(PathBuf::from);
    // One level below as well: Debian has libraries in a directory per architecture (/usr/lib/x86_64-linux-gnu).
    let below = roots.iter().flat_map(|r| std::fs::read_dir(r).into_iter().flatten().flatten().map(|e| e.path()));
    roots.iter().cloned().chain(below).any(|dir| dir.join(name).exists())
}

/// The requirements that are not installed; QEMU counts only where it is the driver.
pub fn missing(needs_qemu: bool) -> Vec<Requirement> {
    let qemu = needs_qemu.then_some(QEMU);
    ALWAYS.into_iter().chain(qemu).filter(|r| !r.is_met()).collect()
}

/// Installs missing requirements with apt. Needs root.
pub fn ensure(needs_qemu: bool, step: Step) -> Result<(), HostPackagesError> {
    let needed = missing(needs_qemu);
    if needed.is_empty() {
        step.unchanged("everything is installed");
        return Ok(());
    }
    if find_program("apt-get").is_none() {
        return Err(HostPackagesError::NoApt { missing: needed });
    }
    let mut packages: Vec<String> = needed.iter().map(|r| r.package.to_owned()).collect();
    // The lists are fetched only if they lack a package, which saves that on a host whose lists are kept up to date.
    if !all_known(&packages)? {
        step.note("fetching the host's package lists");
        update(&step)?;
    }
    if needed.contains(&QEMU) {
        packages.retain(|p| p != QEMU.package);
        packages.extend(qemu::packages()?);
    }
    step.note(&format!("installing {}", packages.join(" ")));
    // Old package lists may name versions that the archive has no more. They are then fetched, and it is tried once
    // again.
    if install(&packages, &step).is_err() {
        update(&step)?;
        install(&packages, &step)?;
    }
    // A package may be installed without its file, or the file be where it is not looked for.
    let missing = missing(needs_qemu);
    if !missing.is_empty() {
        return Err(HostPackagesError::StillMissing { missing });
    }
    step.done(&packages.join(" "));
    Ok(())
}

/// Whether the host's package lists have a version of every package.
fn all_known(packages: &[String]) -> Result<bool, HostPackagesError> {
    let policy = HostCommand::new("apt-cache").arg("policy").args(packages).query();
    let text =
        policy.map_err(|source| HostPackagesError::Query { step: "asking apt which packages it knows", source })?;
    let candidates = text.lines().filter_map(|l| l.trim().strip_prefix("Candidate: "));
    Ok(candidates.filter(|c| *c != "(none)").count() == packages.len())
}

fn update(step: &Step) -> Result<(), HostPackagesError> {
    let install = |source| HostPackagesError::Install { packages: "the host's package lists".to_owned(), source };
    apt_get().arg("update").run(step).map_err(install).map(|_| ())
}

fn install(packages: &[String], step: &Step) -> Result<(), HostPackagesError> {
    let command = apt_get().args(["install", "-y", "--no-install-recommends"]).args(packages);
    let failed = |source| HostPackagesError::Install { packages: packages.join(" "), source };
    command.run(step).map_err(failed).map(|_| ())
}

/// Begins an apt-get command that asks no questions.
fn apt_get() -> HostCommand {
    // Another package manager may hold dpkg's lock, as unattended upgrades do after a boot. apt-get would fail at once
    // without the first option; with it, it waits up to ten minutes.
    HostCommand::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args([
        "-qq",
        "-oDPkg::Lock::Timeout=600",
        "-oAcquire::Retries=3",
        "-oDpkg::Use-Pty=0",
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_apt_is_told_exactly_what_is_missing() {
        let text = HostPackagesError::NoApt { missing: vec![QEMU, ALWAYS[0]] }.to_string();
        assert!(text.contains("qemu-system-x86_64 (Debian package qemu-system-x86: runs the microVMs)"), "{text}");
        assert!(text.contains("nft (Debian package nftables"), "{text}");
    }

    #[test]
    fn a_program_is_found_in_the_systems_own_folders() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-here"), None);
    }
}
