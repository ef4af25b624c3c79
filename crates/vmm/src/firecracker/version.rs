//! Which Firecracker releases this driver works with, and what is known to be wrong with each.
//!
//! ```text
//! `firecracker --version`, `jailer --version` ─► Version ─► judge ─► refused, with the reason
//!                                                               └──► used, with warnings
//! ```
//!
//! Pure. Asked by [`super::binaries`], and shown by `leapbox setup` and `leapbox doctor`. What is known here was
//! true when this was written: Firecracker's own page of security advisories and docs/RELEASE_POLICY.md say more.

use std::fmt;

/// Oldest release the driver works with.
pub const OLDEST: (u32, u32) = (1, 12);
/// Oldest minor release that Firecracker's maintainers still mended (RELEASE_POLICY.md of September 2026: the
/// release of 1.17 ended the support of 1.15).
const OLDEST_SUPPORTED: (u32, u32) = (1, 16);
/// Oldest release without any weakness known here: what production should run, or later.
pub const RECOMMENDED: &str = "1.16.1";

/// Version of a Firecracker or jailer binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
    /// What follows a `-` or `+`, with it: `-dev`. Empty for releases.
    pub label: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}{}", self.major, self.minor, self.patch, self.label)
    }
}

impl Version {
    /// Parses the first line of `PROGRAM --version`: `Firecracker v1.12.1`, `Jailer v1.12.1-dev`.
    pub fn parse(text: &str) -> Option<Self> {
        let (_, word) = text.lines().next()?.trim().rsplit_once(' ')?;
        let word = word.strip_prefix('v').unwrap_or(word);
        let end = word.find(['-', '+']).unwrap_or(word.len());
        let (numbers, label) = word.split_at(end);
        let mut parts = numbers.split('.').map(|part| part.parse().ok());
        let version =
            Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()??, label: label.to_owned() };
        parts.next().is_none().then_some(version)
    }

    fn numbers(&self) -> (u32, u32, u32) {
        (self.major, self.minor, self.patch)
    }

    fn minor_release(&self) -> (u32, u32) {
        (self.major, self.minor)
    }
}

/// Why a pair of binaries is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It lacks what the driver asks for.
    #[error("Firecracker {found} is too old: the driver needs {}.{} or later", OLDEST.0, OLDEST.1)]
    TooOld { found: Version },
    /// A new major release may take away what the driver uses (RELEASE_POLICY.md, API support).
    #[error("Firecracker {found} has another major version than the driver was made for, and may not understand it")]
    UntriedMajor { found: Version },
    /// A jailer is made for the Firecracker of its own release (docs/jailer.md, Disclaimer).
    #[error("Firecracker {firecracker} and jailer {jailer} are not of the same release")]
    Mismatch { firecracker: Version, jailer: Version },
}

/// A known weakness of a version that is used nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What is wrong with it.
    pub what: String,
    /// Whether, and why, it matters to sandboxes of this driver.
    pub here: &'static str,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}; {}", self.what, self.here, self.advice)
    }
}

/// Whether these two may run sandboxes: what to warn of, or why not.
pub fn judge(firecracker: &Version, jailer: &Version) -> Result<Vec<Warning>, Refusal> {
    if firecracker != jailer {
        return Err(Refusal::Mismatch { firecracker: firecracker.clone(), jailer: jailer.clone() });
    }
    if firecracker.minor_release() < OLDEST {
        return Err(Refusal::TooOld { found: firecracker.clone() });
    }
    if firecracker.major > OLDEST.0 {
        return Err(Refusal::UntriedMajor { found: firecracker.clone() });
    }
    Ok(warnings(firecracker))
}

fn warnings(version: &Version) -> Vec<Warning> {
    let found = [jail_symlink(version), pci_write(version), silent_vsock(version), support(version), label(version)];
    found.into_iter().flatten().collect()
}

fn warning(what: impl Into<String>, here: &'static str) -> Warning {
    Warning { what: what.into(), here, advice: format!("install Firecracker {RECOMMENDED} or later") }
}

/// AWS bulletin 2026-003; mended in 1.13.2 and 1.14.1.
fn jail_symlink(version: &Version) -> Option<Warning> {
    let numbers = version.numbers();
    let affected = numbers <= (1, 13, 1) || numbers == (1, 14, 0);
    affected.then(|| {
        warning(
            "CVE-2026-1386: the jailer follows a symbolic link planted in the jail, and overwrites files of the host",
            "little danger here: every jail folder is new, its parents are root's alone, and nothing in it belongs to \
             a sandbox before the jailer has run",
        )
    })
}

/// AWS bulletin 2026-015; mended in 1.14.4 and 1.15.1.
fn pci_write(version: &Version) -> Option<Warning> {
    let numbers = version.numbers();
    let affected = ((1, 13, 0)..=(1, 14, 3)).contains(&numbers) || numbers == (1, 15, 0);
    affected.then(|| {
        warning(
            "CVE-2026-5747: the guest's root can write out of bounds through virtio over PCI",
            "no danger here: PCI is never turned on",
        )
    })
}

/// Mended in 1.16.1 (pull request 5958 of firecracker-microvm/firecracker).
fn silent_vsock(version: &Version) -> Option<Warning> {
    (version.numbers() == (1, 16, 0)).then(|| {
        warning(
            "vsock is dead after a restore",
            "no harm here: sandboxes have no vsock, their channel is a network card",
        )
    })
}

fn support(version: &Version) -> Option<Warning> {
    (version.minor_release() < OLDEST_SUPPORTED).then(|| {
        warning(
            format!("{}.{} is past its support", version.major, version.minor),
            "faults found in it from now on will not be mended",
        )
    })
}

fn label(version: &Version) -> Option<Warning> {
    (!version.label.is_empty()).then(|| {
        warning(
            format!("{version} is not a release"),
            "Firecracker's maintainers test releases, and builds of one's own may lack the seccomp filters",
        )
    })
}

#[cfg(test)]
mod tests;
