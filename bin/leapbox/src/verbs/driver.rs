//! Which VMM driver runs the sandboxes, and why. Asked by `setup`, `serve` and `doctor`.
//!
//! ```text
//! auto ─► Firecracker, if it and its jailer are found, /dev/kvm opens, and the CPU shows vmx or svm
//!      └► else QEMU under emulation, which every host can run
//! ```
//!
//! A /dev/kvm without those CPU flags cannot run a stock guest: it dies in instruction emulation.

use crate::config::DriverSetting;
use leapbox_templates::host_packages::find_program;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The Firecracker driver is not part of this version yet.
const HAS_FIRECRACKER_DRIVER: bool = false;

/// A driver that has been picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// QEMU's microvm under emulation (TCG).
    Qemu,
    /// Firecracker with its jailer, on KVM.
    Firecracker,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Driver::Qemu => "qemu",
            Driver::Firecracker => "firecracker",
        })
    }
}

/// What decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverFacts {
    /// Where the firecracker binary is.
    pub firecracker: Option<PathBuf>,
    /// Where its jailer is.
    pub jailer: Option<PathBuf>,
    /// /dev/kvm opens, or why not.
    pub kvm: Result<(), String>,
    /// The CPU's virtualisation flag: `vmx` or `svm`.
    pub cpu_flag: Option<&'static str>,
}

impl DriverFacts {
    /// Looks at the host below `root` (`/`).
    pub fn read(root: &Path) -> Self {
        let kvm = File::options().read(true).write(true).open(root.join("dev/kvm"));
        let cpuinfo = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        Self {
            firecracker: find_program("firecracker"),
            jailer: find_program("jailer"),
            kvm: kvm.map(|_| ()).map_err(|e| e.to_string()),
            cpu_flag: virtualisation_flag(&cpuinfo),
        }
    }

    /// What keeps Firecracker from being used here, in words.
    fn obstacles(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Err(why) = &self.kvm {
            found.push(format!("/dev/kvm does not open ({why})"));
        }
        if self.cpu_flag.is_none() {
            found.push("the CPU shows neither vmx nor svm, without which KVM cannot run a stock guest".to_owned());
        }
        for (name, path) in [("firecracker", &self.firecracker), ("jailer", &self.jailer)] {
            if path.is_none() {
                found.push(format!("no {name} in PATH"));
            }
        }
        if !HAS_FIRECRACKER_DRIVER {
            found.push("this version has no Firecracker driver yet".to_owned());
        }
        found
    }
}

fn virtualisation_flag(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags"))?;
    ["vmx", "svm"].into_iter().find(|wanted| flags.split_whitespace().any(|f| f == *wanted))
}

/// The driver, and why it is this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What runs the sandboxes.
    pub driver: Driver,
    /// Why, in words.
    pub why: String,
}

/// The configured driver cannot be used on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("driver {driver} cannot be used here: {reasons}; set driver = \"auto\" or \"qemu\"")]
pub struct DriverRefused {
    /// What was asked for.
    pub driver: Driver,
    /// What stands against it.
    pub reasons: String,
}

/// Picks the driver. Pure.
pub fn choose(setting: DriverSetting, facts: &DriverFacts) -> Result<Choice, DriverRefused> {
    let obstacles = facts.obstacles();
    let usable = obstacles.is_empty();
    let flag = facts.cpu_flag.unwrap_or_default();
    match setting {
        DriverSetting::Qemu => Ok(Choice { driver: Driver::Qemu, why: "configured".to_owned() }),
        DriverSetting::Firecracker if usable => {
            Ok(Choice { driver: Driver::Firecracker, why: "configured".to_owned() })
        }
        DriverSetting::Firecracker => Err(DriverRefused { driver: Driver::Firecracker, reasons: obstacles.join("; ") }),
        DriverSetting::Auto if usable => {
            Ok(Choice { driver: Driver::Firecracker, why: format!("/dev/kvm opens and the CPU shows {flag}") })
        }
        DriverSetting::Auto => {
            let why = format!("under emulation, because Firecracker cannot be used: {}", obstacles.join("; "));
            Ok(Choice { driver: Driver::Qemu, why })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kvm: bool, cpu_flag: Option<&'static str>) -> DriverFacts {
        DriverFacts {
            firecracker: Some("/usr/bin/firecracker".into()),
            jailer: Some("/usr/bin/jailer".into()),
            kvm: if kvm { Ok(()) } else { Err("no such file".to_owned()) },
            cpu_flag,
        }
    }

    #[test]
    fn a_kvm_device_without_the_cpus_flag_means_emulation() {
        let choice = choose(DriverSetting::Auto, &facts(true, None)).expect("a driver");
        assert_eq!(choice.driver, Driver::Qemu);
        assert!(choice.why.contains("neither vmx nor svm"), "{}", choice.why);
    }

    #[test]
    fn firecracker_is_only_an_obstacle_free_choice() {
        let facts = facts(true, Some("svm"));
        let choice = choose(DriverSetting::Auto, &facts).expect("a driver");
        let expected = if HAS_FIRECRACKER_DRIVER { Driver::Firecracker } else { Driver::Qemu };
        assert_eq!(choice.driver, expected);
    }

    #[test]
    fn a_driver_that_was_asked_for_and_cannot_run_is_refused_with_every_reason() {
        let error = choose(DriverSetting::Firecracker, &facts(false, None)).expect_err("refused");
        assert!(error.reasons.contains("/dev/kvm") && error.reasons.contains("vmx"), "{error}");
    }

    #[test]
    fn the_flag_is_a_word_of_its_own() {
        assert_eq!(virtualisation_flag("flags\t\t: fpu svm_lock tsc\n"), None);
        assert_eq!(virtualisation_flag("flags\t\t: fpu svm tsc\n"), Some("svm"));
    }
}
