//! Chooses the VMM driver that runs the sandboxes, and says why. Called by `setup`, `serve` and `doctor`.
//!
//! ```text
//! auto ─► Firecracker, if /dev/kvm opens, the CPU shows vmx or svm, and firecracker and jailer are found and sound
//!      └► else QEMU under emulation, which every host can run
//! ```
//!
//! A /dev/kvm without those CPU flags cannot run a stock guest kernel, which dies there in instruction emulation.

use crate::config::DriverSetting;
use leapbox_errors::chain;
use leapbox_templates::host_packages::find_program;
use leapbox_vmm::binaries::{Binaries, BinariesRefused};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

/// A driver that has been chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// QEMU's microvm under emulation (TCG).
    Qemu,
    /// Firecracker with its jailer on KVM, by these binaries.
    Firecracker(Binaries),
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Driver::Qemu => "qemu",
            Driver::Firecracker(_) => "firecracker",
        })
    }
}

/// The facts about the host that decide between the drivers.
#[derive(Debug)]
pub struct DriverFacts {
    /// The firecracker and jailer binaries, or everything that is wrong with them.
    pub binaries: Result<Binaries, BinariesRefused>,
    /// Whether /dev/kvm could be opened for reading and writing.
    pub kvm: io::Result<()>,
    /// The CPU's virtualisation flag in /proc/cpuinfo, `vmx` or `svm`.
    pub cpu_flag: Option<&'static str>,
}

impl DriverFacts {
    /// Reads the facts of the host whose root directory is `root` (`/`, but for tests), and looks for the binaries in
    /// PATH.
    pub fn read(root: &Path) -> Self {
        // Opened and not only looked for: containers often show a /dev/kvm that they may not open.
        let kvm = File::options().read(true).write(true).open(root.join("dev/kvm"));
        let cpuinfo = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        let (firecracker, jailer) = (find_program("firecracker"), find_program("jailer"));
        Self {
            binaries: Binaries::inspect(firecracker.as_deref(), jailer.as_deref()),
            kvm: kvm.map(drop),
            cpu_flag: virtualisation_flag(&cpuinfo),
        }
    }

    /// Whether this host can run Firecracker once its binaries are installed.
    pub fn kvm_works(&self) -> bool {
        self.kvm.is_ok() && self.cpu_flag.is_some()
    }

    /// Says everything that keeps Firecracker from being used on this host.
    fn obstacles(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Err(error) = &self.kvm {
            found.push(format!("/dev/kvm does not open ({})", chain(error)));
        }
        if self.cpu_flag.is_none() {
            found.push("the CPU shows neither vmx nor svm, without which KVM cannot run a stock guest".to_owned());
        }
        if let Err(refused) = &self.binaries {
            found.extend(refused.faults.iter().map(ToString::to_string));
        }
        found
    }

    /// Returns the binaries, or everything that keeps them from being used on this host.
    fn firecracker(&self) -> Result<&Binaries, DriverRefused> {
        match &self.binaries {
            Ok(binaries) if self.kvm_works() => Ok(binaries),
            _ => Err(DriverRefused { reasons: self.obstacles().join("; ") }),
        }
    }
}

fn virtualisation_flag(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags"))?;
    ["vmx", "svm"].into_iter().find(|wanted| flags.split_whitespace().any(|f| f == *wanted))
}

/// The chosen driver, and the reason for it in words for the log and for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub driver: Driver,
    pub why: String,
}

/// Firecracker was configured and cannot be used on this host. QEMU is never refused, because every host can run it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("driver firecracker cannot be used here: {reasons}; set driver = \"auto\" or \"qemu\"")]
pub struct DriverRefused {
    /// All obstacles, separated by semicolons.
    pub reasons: String,
}

/// Chooses the driver by the setting and the facts. Pure.
pub fn choose(setting: DriverSetting, facts: &DriverFacts) -> Result<Choice, DriverRefused> {
    let flag = facts.cpu_flag.unwrap_or_default();
    let qemu = |why| Ok(Choice { driver: Driver::Qemu, why });
    match (setting, facts.firecracker()) {
        (DriverSetting::Qemu, _) => qemu("configured".to_owned()),
        (DriverSetting::Firecracker, Ok(binaries)) => {
            Ok(Choice { driver: Driver::Firecracker(binaries.clone()), why: "configured".to_owned() })
        }
        // Never QEMU instead: it isolates less, and whoever insists on Firecracker relies on it.
        (DriverSetting::Firecracker, Err(refused)) => Err(refused),
        (DriverSetting::Auto, Ok(binaries)) => {
            let version = &binaries.version;
            let why = format!("/dev/kvm opens, the CPU shows {flag}, and Firecracker {version} is installed");
            Ok(Choice { driver: Driver::Firecracker(binaries.clone()), why })
        }
        (DriverSetting::Auto, Err(DriverRefused { reasons })) => {
            qemu(format!("under emulation, because Firecracker cannot be used: {reasons}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leapbox_vmm::binaries::{BinaryFault, Provenance};
    use leapbox_vmm::version::Version;

    fn binaries() -> Binaries {
        Binaries {
            firecracker: "/usr/bin/firecracker".into(),
            jailer: "/usr/bin/jailer".into(),
            version: Version { major: 1, minor: 16, patch: 1, label: String::new() },
            digest: "0".repeat(64),
            provenance: Provenance::Unknown,
            warnings: Vec::new(),
        }
    }

    fn facts(kvm: bool, cpu_flag: Option<&'static str>) -> DriverFacts {
        let kvm = if kvm { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) };
        DriverFacts { binaries: Ok(binaries()), kvm, cpu_flag }
    }

    fn without_binaries(facts: DriverFacts) -> DriverFacts {
        let faults = ["firecracker", "jailer"].map(|name| BinaryFault::NotFound { name }).into();
        DriverFacts { binaries: Err(BinariesRefused { faults }), ..facts }
    }

    #[test]
    fn a_kvm_device_without_the_cpus_flag_means_emulation() {
        let choice = choose(DriverSetting::Auto, &facts(true, None)).expect("a driver");
        assert_eq!(choice.driver, Driver::Qemu);
        assert!(choice.why.contains("neither vmx nor svm"), "{}", choice.why);
    }

    #[test]
    fn auto_picks_firecracker_where_nothing_stands_against_it() {
        for setting in [DriverSetting::Auto, DriverSetting::Firecracker] {
            let choice = choose(setting, &facts(true, Some("svm"))).expect("a driver");
            assert_eq!(choice.driver, Driver::Firecracker(binaries()));
        }
    }

    #[test]
    fn auto_says_what_is_missing_when_it_falls_back() {
        let choice = choose(DriverSetting::Auto, &without_binaries(facts(true, Some("vmx")))).expect("a driver");
        assert_eq!(choice.driver, Driver::Qemu);
        assert!(choice.why.contains("no firecracker in PATH; no jailer in PATH"), "{}", choice.why);
    }

    #[test]
    fn qemu_is_picked_when_it_is_asked_for_whatever_else_there_is() {
        let choice = choose(DriverSetting::Qemu, &facts(true, Some("svm"))).expect("a driver");
        assert_eq!((choice.driver, choice.why.as_str()), (Driver::Qemu, "configured"));
    }

    #[test]
    fn a_driver_that_was_asked_for_and_cannot_run_is_refused_with_every_reason() {
        let facts = without_binaries(facts(false, None));
        let error = choose(DriverSetting::Firecracker, &facts).expect_err("refused");
        for reason in ["/dev/kvm", "vmx", "no firecracker", "no jailer"] {
            assert!(error.reasons.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_flag_is_a_word_of_its_own() {
        assert_eq!(virtualisation_flag("flags\t\t: fpu svm_lock tsc\n"), None);
        assert_eq!(virtualisation_flag("flags\t\t: fpu svm tsc\n"), Some("svm"));
    }
}
