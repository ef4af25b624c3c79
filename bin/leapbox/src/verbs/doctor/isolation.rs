//! Checks host settings that weaken the isolation between sandboxes (case 9). They are flagged and never refused: an
//! operator with a single tenant may prefer the speed of hyper-threads. The list is that of Firecracker's
//! docs/prod-host-setup.md, and holds for every driver.

use super::check::Check;
use super::read;
use std::path::Path;

pub(super) fn checks(root: &Path) -> Vec<Check> {
    vec![smt(root), ksm(root), swap(root), mitigations(root)]
}

fn smt(root: &Path) -> Check {
    const NAME: &str = "SMT";
    const OFF: &str = "echo off > /sys/devices/system/cpu/smt/control, or boot with nosmt";
    match read(root, "sys/devices/system/cpu/smt/active").as_deref() {
        Some("0") => Check::green(NAME, "off"),
        Some(_) => Check::yellow(NAME, "on: two sandboxes may share a core and watch each other's timing", OFF),
        None => Check::yellow(NAME, "unknown to this kernel", "see whether lscpu shows one thread per core"),
    }
}

fn ksm(root: &Path) -> Check {
    const NAME: &str = "KSM";
    match read(root, "sys/kernel/mm/ksm/run").as_deref() {
        // 2 stops it and also separates the pages that are merged already; 0 would leave those.
        Some("1") => {
            let found = "on: by timing its own writes, a sandbox can find out what another has in memory";
            Check::yellow(NAME, found, "echo 2 > /sys/kernel/mm/ksm/run")
        }
        Some(_) => Check::green(NAME, "off"),
        None => Check::green(NAME, "not in this kernel"),
    }
}

fn swap(root: &Path) -> Check {
    const NAME: &str = "swap";
    let text = read(root, "proc/swaps").unwrap_or_default();
    let areas = text.lines().skip(1).filter_map(|l| l.split_whitespace().next());
    let (safe, open): (Vec<&str>, Vec<&str>) = areas.partition(|area| is_unreadable_later(root, area));
    if !open.is_empty() {
        let found = format!("what sandboxes have in memory may end up on a disk: {}", open.join(", "));
        let advice =
            "swapoff -a; or swap to zram, or to a disk encrypted with a key made at boot (crypttab: /dev/urandom)";
        return Check::yellow(NAME, found, advice);
    }
    if safe.is_empty() {
        return Check::green(NAME, "none");
    }
    Check::green(NAME, format!("in compressed memory or encrypted: {}", safe.join(", ")))
}

/// Whether nothing of a swap area can be read from a disk later: it is zram without a backing disk, or on dm-crypt.
fn is_unreadable_later(root: &Path, area: &str) -> bool {
    let Some(device) = area.strip_prefix("/dev/") else { return false };
    if device.starts_with("zram") {
        // A kernel without zram's write-back does not have this file.
        let backing = read(root, &format!("sys/block/{device}/backing_dev"));
        return backing.is_none_or(|backing| backing == "none");
    }
    let uuid = read(root, &format!("sys/block/{device}/dm/uuid"));
    uuid.is_some_and(|uuid| uuid.starts_with("CRYPT-"))
}

/// Whether the kernel mitigates every known fault of the CPU.
fn mitigations(root: &Path) -> Check {
    const NAME: &str = "CPU mitigations";
    let dir = root.join("sys/devices/system/cpu/vulnerabilities");
    let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
    let mut faults: Vec<_> = entries
        .filter_map(|e| {
            let state = std::fs::read_to_string(e.path()).ok()?;
            Some((e.file_name().to_string_lossy().into_owned(), state.trim().to_owned()))
        })
        .collect();
    if faults.is_empty() {
        return Check::yellow(NAME, "unknown to this kernel", "run a kernel that lists them, 5.10 or later");
    }
    // The kernel writes `Vulnerable` if nothing is done against a fault, and `SMT vulnerable` or `VMX: vulnerable`
    // behind a mitigation that leaves a part open (its admin-guide/hw-vuln).
    faults.retain(|(_, state)| state.to_ascii_lowercase().contains("vulnerable"));
    faults.sort();
    if faults.is_empty() {
        return Check::green(NAME, "none is missing");
    }
    let open: Vec<_> = faults.iter().map(|(name, state)| format!("{name} ({state})")).collect();
    let advice = "install the CPU's microcode (intel-microcode, amd64-microcode), do not boot with mitigations=off, and \
                  turn SMT off where it is named";
    Check::yellow(NAME, format!("vulnerable: {}", open.join(", ")), advice)
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::super::fake_host::host;
    use super::*;

    const SMT: &str = "sys/devices/system/cpu/smt/active";
    const SWAPS: &str = "proc/swaps";
    const MDS: &str = "sys/devices/system/cpu/vulnerabilities/mds";
    const L1TF: &str = "sys/devices/system/cpu/vulnerabilities/l1tf";

    #[test]
    fn case_09_settings_that_weaken_isolation_are_flagged_and_never_refused() {
        let root = host(&[
            (SMT, "1\n"),
            ("sys/kernel/mm/ksm/run", "1\n"),
            (SWAPS, "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n"),
            (MDS, "Vulnerable: Clear CPU buffers attempted, no microcode\n"),
            (L1TF, "Not affected\n"),
        ]);
        let found = checks(root.path());
        assert!(found.iter().all(|c| c.level == Level::Yellow && c.advice.is_some()), "{found:?}");
        assert!(found[3].found.contains("mds") && !found[3].found.contains("l1tf"), "{found:?}");
    }

    #[test]
    fn case_09_a_tight_host_is_green() {
        let root = host(&[
            (SMT, "0\n"),
            (SWAPS, "Filename Type Size Used Priority\n"),
            (MDS, "Mitigation: Clear CPU buffers\n"),
        ]);
        assert!(checks(root.path()).iter().all(|c| c.level == Level::Green));
    }

    #[test]
    fn case_09_what_the_kernel_does_not_tell_is_flagged_too() {
        let root = host(&[]);
        assert_eq!((smt(root.path()).level, mitigations(root.path()).level), (Level::Yellow, Level::Yellow));
    }

    #[test]
    fn case_09_a_mitigation_that_leaves_hyper_threads_or_guests_open_is_flagged() {
        for state in ["Mitigation: Clear CPU buffers; SMT vulnerable", "Mitigation: PTE Inversion; VMX: vulnerable"] {
            assert_eq!(mitigations(host(&[(L1TF, state)]).path()).level, Level::Yellow, "{state}");
        }
    }

    #[test]
    fn case_09_swap_that_never_reaches_a_disk_in_clear_is_fine() {
        let of = |area: &str, file: (&str, &str)| {
            let swaps = format!("Filename Type Size Used Priority\n{area} partition 1 0 -2\n");
            swap(host(&[(SWAPS, &swaps), file]).path()).level
        };
        assert_eq!(of("/dev/zram0", ("sys/block/zram0/backing_dev", "none\n")), Level::Green);
        assert_eq!(of("/dev/zram0", ("sys/block/zram0/backing_dev", "/dev/sda3\n")), Level::Yellow);
        assert_eq!(of("/dev/dm-1", ("sys/block/dm-1/dm/uuid", "CRYPT-PLAIN-swap\n")), Level::Green);
        assert_eq!(of("/dev/dm-1", ("sys/block/dm-1/dm/uuid", "LVM-xyz\n")), Level::Yellow);
        assert_eq!(of("/swapfile", ("proc/uptime", "1\n")), Level::Yellow);
    }
}
