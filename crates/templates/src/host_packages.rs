//! What this host must have installed, and getting it.
//!
//! Asked by `leapbox setup` (which installs what is missing where there is apt) and by `leapbox doctor` (which only
//! tells).

mod qemu;

pub use qemu::{QemuVersion, Soundness, installed_version};

use crate::host_command::{CommandError, HostCommand};
use crate::progress::Step;
use std::path::{Path, PathBuf};

/// How to see that something is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// A program of this name is found.
    Program(&'static str),
    /// This file exists.
    File(&'static str),
    /// A shared library of this name is found.
    Library(&'static str),
}

/// When something is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// By `leapbox setup` alone.
    Build,
    /// By the running server.
    Run,
}

/// Something the host needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    sign: Sign,
    /// When it is needed.
    pub need: Need,
    /// Debian package it comes in.
    pub package: &'static str,
    /// What for, in a few words.
    pub purpose: &'static str,
}

const fn to_run(sign: Sign, package: &'static str, purpose: &'static str) -> Requirement {
    Requirement { sign, need: Need::Run, package, purpose }
}

const fn to_build(sign: Sign, package: &'static str, purpose: &'static str) -> Requirement {
    Requirement { sign, need: Need::Build, package, purpose }
}

const QEMU: Requirement = to_run(Sign::Program("qemu-system-x86_64"), "qemu-system-x86", "runs the microVMs");

const ALWAYS: [Requirement; 15] = [
    to_run(Sign::Program("nft"), "nftables", "filters the sandboxes' traffic"),
    to_run(Sign::Program("mkfs.ext4"), "e2fsprogs", "makes the sandboxes' disks"),
    to_run(Sign::Library("libnss_myhostname.so.2"), "libnss-myhostname", "resolves *.localhost for every program"),
    to_build(Sign::Program("ip"), "iproute2", "shows namespaces and taps to people"),
    to_build(Sign::Program("mmdebstrap"), "mmdebstrap", "builds the system template"),
    to_build(Sign::Program("mkfs.erofs"), "erofs-utils", "packs root file systems"),
    to_build(Sign::Program("depmod"), "kmod", "indexes the guest kernel's modules"),
    to_build(Sign::Program("dpkg-deb"), "dpkg", "unpacks the guest kernel"),
    to_build(Sign::Program("unshare"), "util-linux", "keeps builds apart from the host"),
    to_build(Sign::Program("gzip"), "gzip", "unpacks kernels"),
    to_build(Sign::Program("lz4"), "lz4", "unpacks kernels"),
    to_build(Sign::Program("xz"), "xz-utils", "unpacks kernels"),
    to_build(Sign::Program("zstd"), "zstd", "unpacks kernels"),
    to_build(Sign::File(crate::debian_archive::KEYRING), "debian-archive-keyring", "checks Debian's signatures"),
    to_build(
        Sign::File("/etc/ssl/certs/ca-certificates.crt"),
        "ca-certificates",
        "lets clients trust the rest of the world besides the local CA",
    ),
];

/// Why a host does not get what it needs.
#[derive(Debug, thiserror::Error)]
pub enum HostPackagesError {
    /// Something is missing and there is no apt to install it with.
    #[error("missing on this host, which has no apt-get to install it with: {}", list(missing))]
    NoApt { missing: Vec<Requirement> },
    /// apt failed.
    #[error("install {packages}")]
    Install {
        packages: String,
        #[source]
        source: CommandError,
    },
    /// A host command that only asks failed.
    #[error("{step}")]
    Ask {
        step: &'static str,
        #[source]
        source: CommandError,
    },
    /// The package archive has no QEMU that is known to work.
    #[error("apt offers no QEMU 7.2 (Debian bookworm's); offered: {offered}. Add Debian bookworm to the apt sources")]
    NoSoundQemu { offered: String },
    /// apt was satisfied, and yet something is not there.
    #[error("still missing after apt-get install: {}", list(missing))]
    StillMissing { missing: Vec<Requirement> },
}

fn list(missing: &[Requirement]) -> String {
    let one = |r: &Requirement| format!("{} (Debian package {}: {})", r.name(), r.package, r.purpose);
    missing.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Requirement {
    /// Program, file or library that is looked for.
    pub fn name(&self) -> &'static str {
        match self.sign {
            Sign::Program(name) | Sign::File(name) | Sign::Library(name) => name,
        }
    }

    fn is_met(&self) -> bool {
        match self.sign {
            Sign::Program(name) => find_program(name).is_some(),
            Sign::File(path) => Path::new(path).exists(),
            Sign::Library(name) => has_library(name),
        }
    }
}

/// Where a program is: in PATH or in one of the system's own folders.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(own).map(|dir| dir.join(name)).find(|p| p.is_file())
}

fn has_library(name: &str) -> bool {
    let roots = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"].map(PathBuf::from);
    let below = roots.iter().flat_map(|r| std::fs::read_dir(r).into_iter().flatten().flatten().map(|e| e.path()));
    roots.iter().cloned().chain(below).any(|dir| dir.join(name).exists())
}

/// What is missing; QEMU only counts where it is the driver.
pub fn missing(needs_qemu: bool) -> Vec<Requirement> {
    let qemu = needs_qemu.then_some(QEMU);
    ALWAYS.into_iter().chain(qemu).filter(|r| !r.is_met()).collect()
}

/// Installs what is missing.
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
    if !all_known(&packages)? {
        step.note("fetching the host's package lists");
        update(&step)?;
    }
    if needed.contains(&QEMU) {
        packages.retain(|p| p != QEMU.package);
        packages.extend(qemu::packages()?);
    }
    step.note(&format!("installing {}", packages.join(" ")));
    // The host's lists may name versions the archive no longer has: then they are fetched once and it tries again.
    if install(&packages, &step).is_err() {
        update(&step)?;
        install(&packages, &step)?;
    }
    let missing = missing(needs_qemu);
    if !missing.is_empty() {
        return Err(HostPackagesError::StillMissing { missing });
    }
    step.done(&packages.join(" "));
    Ok(())
}

/// True when the host's package lists know every package.
fn all_known(packages: &[String]) -> Result<bool, HostPackagesError> {
    let policy = HostCommand::new("apt-cache").arg("policy").args(packages).query();
    let text = policy.map_err(|source| HostPackagesError::Ask { step: "ask apt which packages it knows", source })?;
    let candidates = text.lines().filter_map(|l| l.trim().strip_prefix("Candidate: "));
    Ok(candidates.filter(|c| *c != "(none)").count() == packages.len())
}

fn update(step: &Step) -> Result<(), HostPackagesError> {
    let install = |source| HostPackagesError::Install { packages: "package lists".to_owned(), source };
    apt_get().arg("update").run(step).map_err(install).map(|_| ())
}

fn install(packages: &[String], step: &Step) -> Result<(), HostPackagesError> {
    let command = apt_get().args(["install", "-y", "--no-install-recommends"]).args(packages);
    let failed = |source| HostPackagesError::Install { packages: packages.join(" "), source };
    command.run(step).map_err(failed).map(|_| ())
}

/// Asks nothing, and waits for another package manager to finish.
fn apt_get() -> HostCommand {
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
