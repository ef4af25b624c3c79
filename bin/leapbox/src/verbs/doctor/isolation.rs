//! Host settings that weaken the walls between sandboxes. They are flagged and never refused: whoever runs one
//! tenant only may want hyper-threads more.

use super::check::Check;
use std::path::Path;

pub(super) fn checks(root: &Path) -> Vec<Check> {
    vec![smt(root), ksm(root), swap(root), mitigations(root)]
}

fn read(root: &Path, path: &str) -> String {
    std::fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_owned()
}

fn smt(root: &Path) -> Check {
    const NAME: &str = "SMT";
    if read(root, "sys/devices/system/cpu/smt/active") == "1" {
        let found = "on: two sandboxes may share a core and watch each other's timing";
        return Check::yellow(NAME, found, "echo off > /sys/devices/system/cpu/smt/control, or boot with nosmt");
    }
    Check::green(NAME, "off")
}

fn ksm(root: &Path) -> Check {
    const NAME: &str = "KSM";
    if read(root, "sys/kernel/mm/ksm/run") == "1" {
        let found = "on: a sandbox can find out by timing what another has in memory";
        return Check::yellow(NAME, found, "echo 2 > /sys/kernel/mm/ksm/run");
    }
    Check::green(NAME, "off")
}

fn swap(root: &Path) -> Check {
    const NAME: &str = "swap";
    let areas = read(root, "proc/swaps").lines().skip(1).count();
    if areas > 0 {
        let found = format!("{areas} areas: what sandboxes have in memory may end up on a disk");
        return Check::yellow(NAME, found, "swapoff -a, or encrypt the swap with a key made at boot");
    }
    Check::green(NAME, "none")
}

fn mitigations(root: &Path) -> Check {
    const NAME: &str = "CPU mitigations";
    let dir = root.join("sys/devices/system/cpu/vulnerabilities");
    let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
    let mut open: Vec<_> = entries
        .filter_map(|e| {
            let state = std::fs::read_to_string(e.path()).ok()?;
            let name = e.file_name().to_string_lossy().into_owned();
            state.contains("Vulnerable").then(|| format!("{name} ({})", state.trim()))
        })
        .collect();
    open.sort();
    if open.is_empty() {
        return Check::green(NAME, "none is missing");
    }
    let advice = "install the CPU's microcode (intel-microcode, amd64-microcode) and do not boot with mitigations=off";
    Check::yellow(NAME, format!("vulnerable: {}", open.join(", ")), advice)
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::*;
    use std::fs;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temp dir");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        root
    }

    #[test]
    fn case_09_settings_that_weaken_isolation_are_flagged_and_never_refused() {
        let root = host(&[
            ("sys/devices/system/cpu/smt/active", "1\n"),
            ("sys/kernel/mm/ksm/run", "1\n"),
            ("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n"),
            ("sys/devices/system/cpu/vulnerabilities/mds", "Vulnerable: Clear CPU buffers attempted, no microcode\n"),
            ("sys/devices/system/cpu/vulnerabilities/l1tf", "Not affected\n"),
        ]);
        let found = checks(root.path());
        assert!(found.iter().all(|c| c.level == Level::Yellow && c.advice.is_some()), "{found:?}");
        assert!(found[3].found.contains("mds") && !found[3].found.contains("l1tf"), "{found:?}");
    }

    #[test]
    fn case_09_a_tight_host_is_green() {
        let root = host(&[
            ("sys/devices/system/cpu/smt/active", "0\n"),
            ("proc/swaps", "Filename Type Size Used Priority\n"),
            ("sys/devices/system/cpu/vulnerabilities/mds", "Not affected\n"),
        ]);
        assert!(checks(root.path()).iter().all(|c| c.level == Level::Green));
    }
}
