//! The QEMU versions that run the guest kernel soundly under emulation.
//!
//! Debian bookworm's 7.2 does. With 10.0 and later most boots of the guest kernel die of a divide error. The cause is
//! the firmware: SeaBIOS, which later packages use for `microvm`, leaves the 8259 interrupt controller unmasked, and
//! the first timer interrupt arrives in the kernel as vector 0; in bookworm's package the same file name leads to
//! qboot. Versions between have not been tried.

use super::HostPackagesError;
use crate::host_command::HostCommand;
use std::fmt;

const PACKAGE: &str = "qemu-system-x86";
/// The beginning of the Debian version of the QEMU that is known to be sound.
const SOUND: &str = "1:7.2";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    pub major: u32,
    pub minor: u32,
    pub micro: u32,
}

/// Whether a version runs guests soundly under emulation (TCG), as far as it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Soundness {
    Sound,
    /// The version was not tried: `leapbox doctor` warns.
    Untried,
    /// Guests crash: `leapbox setup` refuses it.
    KnownBad,
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

impl QemuVersion {
    /// Parses the first line of `qemu-system-x86_64 --version`.
    pub fn parse(text: &str) -> Option<Self> {
        let version = text.split_once(" version ")?.1.split([' ', '\n']).next()?;
        let mut parts = version.split('.').map(|p| p.parse().ok());
        Some(Self { major: parts.next()??, minor: parts.next()??, micro: parts.next().flatten().unwrap_or(0) })
    }

    pub fn soundness(&self) -> Soundness {
        match (self.major, self.minor) {
            (7, 2) => Soundness::Sound,
            (10.., _) => Soundness::KnownBad,
            _ => Soundness::Untried,
        }
    }
}

/// The version of the installed QEMU; none if there is none, or if its answer cannot be parsed.
pub fn installed_version() -> Option<QemuVersion> {
    let text = HostCommand::new("qemu-system-x86_64").arg("--version").query().ok()?;
    QemuVersion::parse(&text)
}

/// The packages, with versions, that make apt install a sound QEMU.
pub(super) fn packages() -> Result<Vec<String>, HostPackagesError> {
    let asked = HostCommand::new("apt-cache").args(["madison", PACKAGE]).query();
    let text =
        asked.map_err(|source| HostPackagesError::Query { step: "asking apt which QEMU versions it has", source })?;
    let versions: Vec<&str> = text.lines().filter_map(|l| l.split('|').nth(1)).map(str::trim).collect();
    choose(&versions).ok_or_else(|| HostPackagesError::NoSoundQemu { offered: versions.join(", ") })
}

/// Chooses from `versions` as apt lists them, newest first.
fn choose(versions: &[&str]) -> Option<Vec<String>> {
    let version = versions.iter().find(|v| v.starts_with(SOUND))?;
    // The version is named because backports may offer a newer QEMU. The common package must be of the same build.
    Some(vec![format!("{PACKAGE}={version}"), format!("qemu-system-common={version}")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_version_line_is_understood() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        let version = QemuVersion::parse(text).expect("a version");
        assert_eq!(version, QemuVersion { major: 7, minor: 2, micro: 22 });
        assert_eq!(version.soundness(), Soundness::Sound);
    }

    #[test]
    fn backports_qemu_10_is_known_bad_and_others_are_untried() {
        let of = |text| QemuVersion::parse(text).expect("a version").soundness();
        assert_eq!(of("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)"), Soundness::KnownBad);
        assert_eq!(of("QEMU emulator version 8.2.2"), Soundness::Untried);
    }

    #[test]
    fn bookworms_qemu_is_pinned_even_where_backports_offer_a_newer_one() {
        let versions = ["1:10.0.2+ds-2~bpo12+1", "1:7.2+dfsg-7+deb12u18+b3", "1:7.2+dfsg-7+deb12u15"];
        let expected = ["qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3", "qemu-system-common=1:7.2+dfsg-7+deb12u18+b3"];
        assert_eq!(choose(&versions).expect("a choice"), expected);
        assert_eq!(choose(&["1:10.0.2+ds-2"]), None);
    }
}
