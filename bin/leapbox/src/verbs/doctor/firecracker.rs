//! Checks what Firecracker needs of a host and advises for production: binaries, KVM, kernel, jails.
//!
//! It reports only where Firecracker is the driver, is configured, or would be chosen if its binaries were there. In
//! the last case sandboxes run without it, and no finding is worse than yellow. The advice is that of Firecracker's
//! docs/prod-host-setup.md and docs/jailer.md.

use super::check::{Check, Level};
use super::{jails, kvm};
use crate::config::DriverSetting;
use crate::verbs::driver::{Choice, Driver, DriverFacts, DriverRefused};
use leapbox_vmm::binaries::{Binaries, BinaryFault, Provenance};
use std::path::Path;

const NAME: &str = "Firecracker";
const SETUP: &str = "`leapbox setup` says where to get the right release, and how to check and install it";

/// The reason for which Firecracker is checked on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relevance {
    /// It runs the sandboxes, or is configured to.
    Needed,
    /// KVM works here, so it would run the sandboxes if it were installed.
    WithinReach,
}

impl Relevance {
    /// Returns `None` on hosts where Firecracker does not matter.
    pub(super) fn of(
        setting: DriverSetting,
        facts: &DriverFacts,
        choice: &Result<Choice, DriverRefused>,
    ) -> Option<Self> {
        match (setting, choice) {
            (DriverSetting::Firecracker, _) | (_, Ok(Choice { driver: Driver::Firecracker(_), .. })) => {
                Some(Self::Needed)
            }
            (DriverSetting::Auto, _) if facts.kvm_works() => Some(Self::WithinReach),
            (DriverSetting::Auto | DriverSetting::Qemu, _) => None,
        }
    }
}

pub(super) fn checks(
    relevance: Relevance,
    facts: &DriverFacts,
    state_dir: &Path,
    artifacts_dir: &Path,
    root: &Path,
) -> Vec<Check> {
    let mut checks = binaries(facts);
    checks.extend(kvm::checks(root));
    checks.extend(jails::checks(state_dir, artifacts_dir, root));
    // Nothing of this is broken as long as QEMU runs the sandboxes.
    if relevance == Relevance::WithinReach {
        checks.iter_mut().filter(|c| c.level == Level::Red).for_each(|c| c.level = Level::Yellow);
        let found = "KVM works here: Firecracker, once installed, isolates sandboxes better than QEMU under emulation";
        checks.insert(0, Check::yellow("hardware isolation", found, SETUP));
    }
    checks
}

fn binaries(facts: &DriverFacts) -> Vec<Check> {
    match &facts.binaries {
        Err(refused) => refused.faults.iter().map(fault).collect(),
        Ok(binaries) => {
            let warnings = binaries.warnings.iter();
            let weak = warnings.map(|w| Check::yellow(NAME, format!("{}; {}", w.what, w.here), w.advice.as_str()));
            std::iter::once(release(binaries)).chain(weak).collect()
        }
    }
}

fn fault(fault: &BinaryFault) -> Check {
    let advice = match fault {
        BinaryFault::Untrusted { .. } => {
            "whoever can replace it controls every sandbox: chown root and chmod go-w each of these, and reinstall it"
        }
        BinaryFault::NotFound { .. }
        | BinaryFault::Unreadable { .. }
        | BinaryFault::NotAFile { .. }
        | BinaryFault::Name { .. }
        | BinaryFault::NotStatic { .. }
        | BinaryFault::DoesNotRun { .. }
        | BinaryFault::NoVersion { .. }
        | BinaryFault::Version(_) => SETUP,
    };
    Check::red(NAME, fault.to_string(), advice)
}

fn release(binaries: &Binaries) -> Check {
    let Binaries { version, firecracker, jailer, .. } = binaries;
    let found = format!("{version}: {}, {}, writable by root alone", firecracker.display(), jailer.display());
    match binaries.provenance {
        Provenance::Published => Check::green(NAME, format!("{found}, as published")),
        Provenance::Unknown => Check::green(NAME, format!("{found}; digests of this release are not known here")),
        Provenance::NotTheRelease => {
            let found = format!("{found}; these are not the binaries that were released as {version}");
            Check::yellow(NAME, found, format!("unless you have built them yourself: {SETUP}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake_host::host;
    use super::*;
    use crate::verbs::driver::choose;
    use leapbox_vmm::binaries::BinariesRefused;
    use leapbox_vmm::version::{Version, Warning};

    fn facts(cpu_flag: Option<&'static str>) -> DriverFacts {
        let faults = vec![BinaryFault::NotFound { name: "jailer" }];
        DriverFacts { binaries: Err(BinariesRefused { faults }), kvm: Ok(()), cpu_flag }
    }

    fn with_binaries(facts: DriverFacts, provenance: Provenance) -> DriverFacts {
        let warning = Warning { what: "it leaks".to_owned(), here: "no harm here", advice: "upgrade".to_owned() };
        let binaries = Binaries {
            firecracker: "/usr/local/bin/firecracker".into(),
            jailer: "/usr/local/bin/jailer".into(),
            version: Version { major: 1, minor: 16, patch: 1, label: String::new() },
            digest: "0".repeat(64),
            provenance,
            warnings: vec![warning],
        };
        DriverFacts { binaries: Ok(binaries), ..facts }
    }

    fn relevance(setting: DriverSetting, facts: &DriverFacts) -> Option<Relevance> {
        Relevance::of(setting, facts, &choose(setting, facts))
    }

    #[test]
    fn a_host_that_could_never_run_firecracker_hears_nothing_of_it_unless_it_was_asked_for() {
        assert_eq!(relevance(DriverSetting::Auto, &facts(None)), None);
        assert_eq!(relevance(DriverSetting::Qemu, &facts(Some("svm"))), None);
        assert_eq!(relevance(DriverSetting::Auto, &facts(Some("svm"))), Some(Relevance::WithinReach));
        assert_eq!(relevance(DriverSetting::Firecracker, &facts(None)), Some(Relevance::Needed));
        let complete = with_binaries(facts(Some("svm")), Provenance::Published);
        assert_eq!(relevance(DriverSetting::Auto, &complete), Some(Relevance::Needed));
    }

    #[test]
    fn missing_binaries_are_red_where_they_are_needed_and_yellow_within_reach() {
        let root = host(&[]);
        let of = |relevance| {
            let dir = Path::new("/var/lib/leapbox");
            checks(relevance, &facts(Some("svm")), dir, dir, root.path())
        };
        let found = of(Relevance::Needed);
        assert_eq!((found[0].level, found[0].found.as_str()), (Level::Red, "no jailer in PATH"));
        let found = of(Relevance::WithinReach);
        assert!(found.iter().all(|c| c.level != Level::Red), "{found:?}");
        assert!(found[0].found.contains("KVM works here"), "{found:?}");
    }

    #[test]
    fn each_warning_of_a_release_is_a_finding_of_its_own() {
        let found = binaries(&with_binaries(facts(Some("svm")), Provenance::Published));
        assert_eq!(found.iter().map(|c| c.level).collect::<Vec<_>>(), [Level::Green, Level::Yellow]);
        assert_eq!((found[1].found.as_str(), found[1].advice.as_deref()), ("it leaks; no harm here", Some("upgrade")));
        let found = binaries(&with_binaries(facts(Some("svm")), Provenance::NotTheRelease));
        assert_eq!(found[0].level, Level::Yellow);
    }
}
