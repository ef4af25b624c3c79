//! Reports on Firecracker on a host with KVM: which release is there, what is wrong with it, and how to get the right
//! one. Called by `setup`.
//!
//! Nothing is downloaded or installed: these binaries run as root, and only the host's operator can decide to trust
//! them. The printed commands check the archive before anything of it is used.

use crate::config::DriverSetting;
use crate::verbs::driver::DriverFacts;
use leapbox_templates::Progress;
use leapbox_vmm::binaries::{Binaries, Provenance};
use leapbox_vmm::version::RECOMMENDED;

/// SHA-256 of the archive of [`RECOMMENDED`] for x86-64, as published beside it. The two change together.
const ARCHIVE_SHA256: &str = "382a02a869e4d6d5cb14c40577f9545e8458021ea8b0b2d3fc10ec14d9c242e6";
const RELEASES: &str = "https://github.com/firecracker-microvm/firecracker/releases";

/// Prints a report on hosts where Firecracker is or could be the driver, and nothing on others.
pub fn report(setting: DriverSetting, facts: &DriverFacts, progress: &Progress) {
    let asked_for = match setting {
        DriverSetting::Qemu => return,
        DriverSetting::Auto => false,
        DriverSetting::Firecracker => true,
    };
    if !asked_for && !facts.kvm_works() {
        return;
    }
    let advice = match &facts.binaries {
        Ok(binaries) => {
            progress.step("Firecracker").unchanged(&found(binaries));
            weaknesses(binaries)
        }
        Err(refused) => {
            eprintln!("  ! Firecracker: cannot be used yet");
            refused.faults.iter().map(ToString::to_string).collect()
        }
    };
    if advice.is_empty() {
        return;
    }
    for line in advice {
        eprintln!("      {line}");
    }
    if !asked_for && facts.binaries.is_err() {
        eprintln!("      Until then this host, which has KVM, emulates its sandboxes with QEMU.");
    }
    eprintln!("{}", how_to_install());
}

fn found(binaries: &Binaries) -> String {
    let origin = match binaries.provenance {
        Provenance::Published => "as published",
        Provenance::NotTheRelease => "NOT as published",
        Provenance::Unknown => "a release whose digests are not known here",
    };
    let (firecracker, jailer) = (binaries.firecracker.display(), binaries.jailer.display());
    format!("{}, {origin}: {firecracker}, {jailer}", binaries.version)
}

fn weaknesses(binaries: &Binaries) -> Vec<String> {
    let mut lines: Vec<_> = binaries.warnings.iter().map(ToString::to_string).collect();
    if binaries.provenance == Provenance::NotTheRelease {
        lines.push(format!(
            "these binaries call themselves {}, and are not what was released under that version",
            binaries.version
        ));
    }
    lines
}

/// Returns the commands that install the recommended release, for the operator to run as root.
fn how_to_install() -> String {
    let archive = format!("firecracker-v{RECOMMENDED}-x86_64.tgz");
    let unpacked = format!("release-v{RECOMMENDED}-x86_64");
    let install = |program: &str| {
        format!("install -o root -g root -m 0755 {unpacked}/{program}-v{RECOMMENDED}-x86_64 /usr/local/bin/{program}")
    };
    let commands = [
        format!("curl -fLO {RELEASES}/download/v{RECOMMENDED}/{archive}"),
        format!("echo '{ARCHIVE_SHA256}  {archive}' | sha256sum --check"),
        format!("tar -xzf {archive}"),
        install("firecracker"),
        install("jailer"),
    ];
    format!(
        "      Firecracker {RECOMMENDED} or later should run here. To install it, as root:\n\n\
         {}\n\n      \
         Later releases and the digests of their archives (*.tgz.sha256.txt): {RELEASES}\n      \
         Both binaries must be of one release, and writable by root alone, as must be the directories above them.\n",
        commands.map(|command| format!("        {command}")).join(" &&\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use leapbox_vmm::version::Version;

    #[test]
    fn the_commands_check_the_archive_before_they_unpack_it_and_install_both_as_root() {
        let text = how_to_install();
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part:?} is not in {text}"));
        assert!(at("curl") < at("sha256sum --check") && at("sha256sum --check") < at("tar -xzf"));
        for program in ["firecracker", "jailer"] {
            at(&format!("-o root -g root -m 0755 release-v1.16.1-x86_64/{program}-v1.16.1-x86_64 /usr/local/bin/"));
        }
    }

    #[test]
    fn a_rebuilt_release_is_told_from_the_published_one() {
        let mut binaries = Binaries {
            firecracker: "/usr/local/bin/firecracker".into(),
            jailer: "/usr/local/bin/jailer".into(),
            version: Version { major: 1, minor: 16, patch: 1, label: String::new() },
            digest: "0".repeat(64),
            provenance: Provenance::Published,
            warnings: Vec::new(),
        };
        assert_eq!(weaknesses(&binaries), [""; 0]);
        binaries.provenance = Provenance::NotTheRelease;
        assert!(found(&binaries).contains("NOT as published"));
        assert!(weaknesses(&binaries)[0].contains("call themselves 1.16.1"));
    }
}
