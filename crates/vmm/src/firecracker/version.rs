//! Judges Firecracker releases: whether this driver works with them, and which faults of theirs are known.
//!
//! ```text
//! `firecracker --version`, `jailer --version` ─► Version ─► judge ─► refused, with the reason
//!                                                               └──► used, with warnings
//! ```
//!
//! Pure. Called by [`super::binaries`]; `leapbox setup` and `leapbox doctor` show the result. The table is of September
//! 2026: Firecracker's page of security advisories and its docs/RELEASE_POLICY.md have what is newer.

use std::fmt;

/// The oldest minor version that the driver works with.
pub const OLDEST: (u32, u32) = (1, 12);
/// The oldest minor version that Firecracker's maintainers still fixed in September 2026 (RELEASE_POLICY.md: the
/// release of 1.17 ended the support of 1.15).
const OLDEST_SUPPORTED: (u32, u32) = (1, 16);
/// The oldest release without a weakness in this table. Production should run it or a later one.
pub const RECOMMENDED: &str = "1.16.1";

/// The version of a firecracker or jailer binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
    /// Everything from the first `-` or `+` on, such as `-dev`. Empty for releases.
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

/// The reason for which a pair of binaries is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The release lacks features that the driver uses.
    #[error("Firecracker {found} is too old: the driver needs {}.{} or later", OLDEST.0, OLDEST.1)]
    TooOld { found: Version },
    /// A new major release may remove what the driver uses (RELEASE_POLICY.md, API support).
    #[error("Firecracker {found} is of another major version than the driver supports: install a release of 1.x")]
    UntriedMajor { found: Version },
    /// A jailer is made for the Firecracker of its own release (docs/jailer.md, Disclaimer).
    #[error("Firecracker {firecracker} and jailer {jailer} are not of the same release")]
    Mismatch { firecracker: Version, jailer: Version },
}

/// A known weakness of a version that is used nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub what: String,
    /// Whether it matters to sandboxes of this driver, and why.
    pub here: &'static str,
    /// The action that the operator should take.
    pub advice: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}; {}", self.what, self.here, self.advice)
    }
}

/// Decides whether these two may run sandboxes. Returns the known weaknesses, or the reason against it.
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

/// AWS bulletin 2026-003; fixed in 1.13.2 and 1.14.1.
fn jail_symlink(version: &Version) -> Option<Warning> {
    let numbers = version.numbers();
    let affected = numbers <= (1, 13, 1) || numbers == (1, 14, 0);
    affected.then(|| {
        warning(
            "CVE-2026-1386: the jailer follows a symbolic link planted in the jail, and overwrites files of the host",
            "little danger here: every jail is a new directory, its parents are root's alone, and nothing in it \
             belongs to a sandbox before the jailer has run",
        )
    })
}

/// AWS bulletin 2026-015; fixed in 1.14.4 and 1.15.1.
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

/// Fixed in 1.16.1 (pull request 5958 of firecracker-microvm/firecracker).
fn silent_vsock(version: &Version) -> Option<Warning> {
    (version.numbers() == (1, 16, 0)).then(|| {
        warning(
            "vsock is dead after a restore",
            "no danger here: sandboxes have no vsock; the host reaches them over a network card",
        )
    })
}

fn support(version: &Version) -> Option<Warning> {
    (version.minor_release() < OLDEST_SUPPORTED).then(|| {
        warning(
            format!("{}.{} is no longer supported upstream", version.major, version.minor),
            "faults found in it from now on will not be fixed",
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
