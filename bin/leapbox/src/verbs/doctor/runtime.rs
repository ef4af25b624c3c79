//! Checks what runs the sandboxes: the driver, QEMU, and the host's packages.

use super::check::Check;
use crate::verbs::driver::{Choice, Driver, DriverRefused};
use leapbox_templates::host_packages::{self, Need, QemuVersion, Requirement, Soundness};

const DOWNGRADE: &str = "apt-get install --allow-downgrades 'qemu-system-x86=1:7.2*'";

pub(super) fn checks(choice: &Result<Choice, DriverRefused>) -> Vec<Check> {
    let mut checks = Vec::new();
    let needs_qemu = match choice {
        Ok(choice) => {
            checks.push(Check::green("driver", format!("{}: {}", choice.driver, choice.why)));
            choice.driver == Driver::Qemu
        }
        Err(refused) => {
            checks.push(Check::red("driver", refused.to_string(), "change `driver` in config.toml"));
            false
        }
    };
    if needs_qemu {
        checks.push(qemu(host_packages::installed_version()));
    }
    checks.push(packages(&host_packages::missing(needs_qemu)));
    checks
}

fn qemu(version: Option<QemuVersion>) -> Check {
    const NAME: &str = "QEMU";
    let Some(version) = version else {
        return Check::red(NAME, "not installed", "run `leapbox setup`, or: apt-get install qemu-system-x86");
    };
    match version.soundness() {
        Soundness::Sound => Check::green(NAME, format!("{version}, known to be sound under emulation")),
        Soundness::Untried => {
            let found = format!("{version}, not tried under emulation");
            Check::yellow(NAME, found, format!("Debian bookworm's 7.2 is known to be sound: {DOWNGRADE}"))
        }
        Soundness::KnownBad => {
            let found = format!("{version} crashes guest kernels under emulation");
            Check::red(NAME, found, format!("install Debian bookworm's 7.2: {DOWNGRADE}"))
        }
    }
}

fn packages(missing: &[Requirement]) -> Check {
    const NAME: &str = "host packages";
    if missing.is_empty() {
        return Check::green(NAME, "all installed");
    }
    let one = |r: &Requirement| format!("{} ({})", r.name(), r.purpose);
    let found = format!("missing: {}", missing.iter().map(one).collect::<Vec<_>>().join(", "));
    let names: Vec<_> = missing.iter().map(|r| r.package).collect();
    let advice = format!("run `leapbox setup`, or: apt-get install {}", names.join(" "));
    // A package that only set-up needs does not keep sandboxes from running.
    if missing.iter().any(|r| r.need == Need::Run) {
        Check::red(NAME, found, advice)
    } else {
        Check::yellow(NAME, found, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::*;

    #[test]
    fn qemu_10_is_red_and_an_untried_one_yellow() {
        let version = |major, minor| Some(QemuVersion { major, minor, micro: 0 });
        assert_eq!(qemu(version(10, 0)).level, Level::Red);
        assert_eq!(qemu(version(8, 2)).level, Level::Yellow);
        assert_eq!(qemu(version(7, 2)).level, Level::Green);
        assert_eq!(qemu(None).level, Level::Red);
    }
}
